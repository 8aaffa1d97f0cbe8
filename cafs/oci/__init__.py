"""OCI: references, registries, layouts, archives, manifests and the index artifact."""
