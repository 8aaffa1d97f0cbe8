"""How the node's programs speak to the mount server: HTTP/1.1, JSON, a unix socket (docs/mountd.md)."""
