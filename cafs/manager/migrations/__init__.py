"""How the database became what it is, step by step; ``cafs.manager.migrate`` runs them."""
