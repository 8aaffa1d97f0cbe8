"""Builds the objects of one node and wires them together: the only place that does."""
