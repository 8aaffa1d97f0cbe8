"""What is right in messages between services and the manager, by field: what fuzzing begins with."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from cafs.core.digest import Digest
from cafs.core.learning import encode_bounded
from cafs.core.profile import Profile
from cafs.proto import manager_pb2

IMAGE = sha256(b"image").digest()
HOST, OTHER, LIFE = "a" * 32, "b" * 32, "c" * 32
DOCUMENTS = [
    b'{"peer": {"concurrent_uploads": 17, "upload_bytes_per_s": 0}, "block": [{"tag": "x", "priority": 3}]}',
    b'{"scheduler": {"parents": 8, "shun_s": 60.5}, "profiles": {"learn": false}, "block": [{"url": "/f$"}]}',
    b'{"proxy": {"rules": ["p2p blobs", "blocked evil"]}, "applications": [{"name": "ml", "priority": 5}]}',
    b"{}",
]
STARTS = [
    encode_bounded(Profile((Digest("sha256:" + "1" * 64),), ((0, b"8 bytes."), (0, b"8 others")))),
    encode_bounded(
        Profile(
            tuple(Digest(f"sha256:{n:064x}") for n in range(3)),
            ((2, b"8 bytes."), (0, b"8 others")),
            starts=5,
        )
    ),
]
_BOTH: dict[str, Any] = {
    "image": [IMAGE, bytes(32)],
    "held": [b"", sha256(STARTS[0]).digest()],
    "life": [LIFE],
    "profile": STARTS,
    "job_id": [1, 2, 3],
    "attempt": [1, 2],
    "cluster_id": [0, 1, 7],
    "version": [0, 1, 2],
}
FROM_SERVICES = _BOTH | {
    "host_id": [HOST, OTHER],
    "protocol_version": [1],
    "kind": [manager_pb2.PEER, manager_pb2.SEED, manager_pb2.PROXY, manager_pb2.SCHEDULER],
    "hostname": ["node-1"],
    "address": ["10.0.0.7:65002", "[2001:db8::7]:65002"],
    "idc": ["east"],
    "location": ["eu|a|r1"],
    "Hello.version": ["1.2"],
    "refused": ["", "it cannot be"],
    "name": ["sha256:" + "d" * 64, "docker://h/r:t"],
    "number": [1, 2],
    "result": [b"", b'{"tasks": 3}'],
    "why": ["", "it failed"],
    "progress": [manager_pb2.DOING, manager_pb2.DONE, manager_pb2.FAILED],
}
TO_SERVICES = _BOTH | {
    "replica_id": ["e" * 32],
    "alive_every_ms": [10_000],
    "addresses": ["10.0.0.8:65003", "[2001:db8::8]:65003"],
    "document": DOCUMENTS,
    "next_in_ms": [5000],
    "number": [1],
    "url": ["http://origin.invalid/f?x=1", "https://registry.invalid/v2/a/blobs/sha256:" + "d" * 64],
    "digest": ["", "sha256:" + "d" * 64],
    "PreheatImage.image": ["registry.invalid/team/app:v1"],
    "tag": ["", "t"],
    "application": ["", "ml"],
    "priority": [0, 3, 6],
    "filtered_query": ["sig"],
    "platforms": ["linux/arm64", "linux/arm/v7"],
    "task_ids": ["f" * 64],
    "RequestHeader.name": ["Accept", "X-A"],
    "RequestHeader.value": ["1", "text/plain"],
}
