"""Swarms of any size in one process: the scheduler's own core, hosts and links that are simulated."""
