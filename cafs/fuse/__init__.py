"""Shells that show a tree to the kernel: the FUSE protocol, its session, mounts and the takeover."""
