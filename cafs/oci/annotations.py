"""The annotation keys that CAFS and OCI put on manifests and descriptors.

Annotations are data: never a path, a host or a flag. What is read from one is parsed and bounded in
``cafs.oci.artifact``.
"""

from __future__ import annotations

LAYER_DIGEST = "dev.cafs.layer.digest"
"""Digest of the image's layer that an index or a chunk blob was made from."""
LAYER_DIFF_ID = "dev.cafs.layer.diffid"
"""Digest of that layer's uncompressed tar."""
INDEX_DIGEST = "dev.cafs.index.digest"
"""sha256 of the layer index file, decompressed."""
INDEX_SIZE = "dev.cafs.index.size"
"""Bytes of the layer index file, decompressed; decimal."""
OPTIONS = "dev.cafs.options"
"""Names chunking options and writer version: with the diffID, the key for using a conversion again."""
PARENT_CHAIN_ID = "dev.cafs.parent.chainid"
"""chainID of the layers below, only where the index took something from them (FOLLOWS_PARENT)."""
DICTIONARY = "dev.cafs.dictionary"
"""``"true"`` on a chunk blob of another image that chunk tables refer to."""
GENERATION = "dev.cafs.generation"
"""On the artifact: 1, 2, 3 ... for one subject in one repository; the highest is the newest."""
SIGNATURE = "dev.cafs.signature"
"""On the artifact: an Ed25519 signature, in base64."""
SIGNATURE_KEY = "dev.cafs.signature.key"
"""On the artifact: the public key the signature is by, as ``ed25519:BASE64``."""
BOUND_DIGEST = "dev.cafs.artifact.digest"
"""On an image's manifest: digest of its index artifact, which the image's own digest so binds."""
BOUND_SIZE = "dev.cafs.artifact.size"
"""Bytes of that artifact's manifest; decimal."""

REF_NAME = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"
