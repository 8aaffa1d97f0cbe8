"""A manager under the load of many services."""
