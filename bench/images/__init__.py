"""Real images for the container benches: recipes over Debian's packages, layers built once and kept.

``recipes`` says what is in them, ``steps`` how one layer comes about, ``layers`` builds and keeps layers,
``layout`` puts them together as OCI images. Nothing here measures, and nothing here imports ``cafs``.
"""
