"""The chunk store. The only package that imports lmdb."""
