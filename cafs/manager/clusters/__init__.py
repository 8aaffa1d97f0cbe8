"""Clusters, the hosts in them, and how a host finds its own."""
