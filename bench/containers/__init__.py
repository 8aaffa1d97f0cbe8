"""Containers on a node behind a slow link (``demo.node``), started and asked whether they are ready.

``ready`` asks programs, ``start`` takes one sample, ``record`` makes an access profile, ``snapshots`` calls
the snapshots service without containerd.
"""
