"""The node's mount server: one FUSE session in which layers come and go (docs/mountd.md)."""
