"""An own certificate authority: for mTLS between hosts, and for opening TLS of listed hosts in the proxy."""
