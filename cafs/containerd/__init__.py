"""Our side of containerd's API: images, content, snapshots, leases. Used by the command line.

What containerd asks *us* is ``cafs.snapshotter``.
"""
