"""The FUSE boundary: kernel protocol, sessions, trees, mounts and their supervision."""
