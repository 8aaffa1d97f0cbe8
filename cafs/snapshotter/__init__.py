"""containerd's Snapshots service: lazy layers where an image was converted, overlayfs for everything else.

A program of its own (``cafs snapshotter``, asyncio). ``cafs.cli`` starts it; it speaks to the mount server
only over its socket.
"""
