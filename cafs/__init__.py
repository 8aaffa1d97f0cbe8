"""CAFS: content-addressed delivery of images and files, started before they have arrived."""

__version__ = "0.1.0"
