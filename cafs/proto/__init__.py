"""Messages of the gRPC interfaces that CAFS speaks, generated from ``proto/*.proto`` (``make proto``).

Used by whatever speaks them: the snapshotter and containerd's client. Holds no code of ours but
``services``, and imports nothing but protobuf.
"""
