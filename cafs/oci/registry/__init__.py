"""Registries over HTTP (OCI distribution-spec v1.1): pure parts, and a thin client on trio."""
