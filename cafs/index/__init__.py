"""The layer index: built from a tree, opened from a file, read, checked, merged and compared."""
