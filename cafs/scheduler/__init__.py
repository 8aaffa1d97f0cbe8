"""``cafs scheduler``: who feeds whom, over gRPC. ``cafs.core.scheduling`` decides, this carries it out."""
