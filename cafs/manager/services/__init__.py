"""What schedulers, seeds and peers say and hear: gRPC."""
