"""Real swarms for the bench: namespaces with limited links, an origin, a scheduler, peers."""
