"""Turns a source into layer indexes and chunk blobs, and puts them where they belong."""
