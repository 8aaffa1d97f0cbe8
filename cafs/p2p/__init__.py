"""P2P: the engine, what it serves and whom it asks (trio shells round ``cafs.core.swarm``)."""
