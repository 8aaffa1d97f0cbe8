"""Chunks on demand: memory, store, then one fetch for all who wait; prefetch and profiles."""
