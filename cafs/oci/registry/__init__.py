"""Registries over HTTP (OCI distribution-spec v1.1): pure parts, and one thin client on httpx and trio."""
