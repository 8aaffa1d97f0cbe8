"""What resident programs share: figures on a port, a word to systemd, what it keeps between two starts."""
