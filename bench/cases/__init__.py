"""One module per row of what CAFS promises. The table below is the order in which they run."""

from __future__ import annotations

CASES = {
    "convert_large": "convert of a layer of more than 1 GB, against zstd and mkfs.erofs; memory",
    "convert_small": "convert of 100,000 small files; size of the index",
    "compressed_size": "a converted image against its gzip layers",
    "second_version": "a second version of an image, --chunk-dict",
    "mount_ready": "mount of 100,000 files until ls -R may begin; memory of the server",
    "erofs_warm": "driver erofs, page cache warm, against kernel EROFS",
    "erofs_cold": "driver erofs, page cache cold, against kernel EROFS",
    "fuse_driver": "driver fuse against squashfuse and squashfuse_ll",
    "chunk_store": "the chunk store: put, get warm and cold, against decoding alone and plain files",
    "lazy_start": "start of a Python program over 200 Mbit/s, against pull, unpack, run",
    "far_start": "the same from a registry that is 20 ms away",
    "container_snapshots": "ordinary snapshots through a socket, against containerd's own overlayfs",
    "container_many": "fifty containers at once, against overlayfs; memory of the snapshotter",
    "container_shared": "ten images on one base: what is mounted, what memory they take",
    "container_start": "seven images under containerd over 200 Mbit/s, against overlayfs and their limit",
    "learned_start": "the same with what was learned of other nodes' starts, against no and other profiles",
    "scheduler_core": "events a second and p99 of the scheduler's core, 10,000 hosts, 1,000 tasks",
    "p2p_pair": "one peer to one child over loopback, against nginx and curl",
    "p2p_swarm": "eight hosts at 200 Mbit/s fetch 500 MB at once; copies that leave the origin",
    "p2p_lazy_start": "eight hosts start one image at once over 200 Mbit/s, against one host alone",
    "p2p_on_demand": "a chunk that a reader waits for, from another host, while a fill takes the link",
    "p2p_peer_memory": "what a peer holds in memory, idle and under full load",
    "proxy_latency": "one byte through the proxy, warm and for the first time",
    "manager_load": "10,000 hosts that live and report to one manager on SQLite: processor, memory, REST",
    "overview_page": "the console's overview of 10,000 hosts in Chromium, until it is drawn",
    "config_push": "a change of the configuration until all of 1,000 connected services have it",
    "preheat": "an image preheated to eight hosts by a job, against these fetching the same bytes themselves",
    "swarm_simulation": "100 to 100,000 simulated hosts under the scheduler's core; churn, slow hosts, liars",
}
"""Name of the module -> one line for ``--help``."""
