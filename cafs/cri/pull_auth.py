"""Whose credentials a CRI pull uses: from a PullImageRequest to the body of ``PUT /credentials``. Pure.

No secret is repeated in an error.
"""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from cafs.errors import UsageError
from cafs.oci.reference import RegistryReference, canonical_host, parse_reference
from cafs.proto import cri_pb2 as pb


def credentials_of_pull(request: bytes) -> dict[str, str] | None:
    """What came with the pull; None when nothing did, or nothing for the image's own registry.

    Means what it means to containerd (its ``ParseAuth``), and takes registry tokens too.

    Raises:
        UsageError: the request, its image or its credentials cannot be read.
    """
    try:
        pull = pb.PullImageRequest.FromString(request)
    except DecodeError as e:
        raise UsageError("a PullImage request that is none") from e
    auth = pull.auth
    if not auth.ByteSize():
        return None
    reference = parse_reference(pull.image.image)
    if not isinstance(reference, RegistryReference):
        raise UsageError(f"{pull.image.image[:200]!r} is in no registry")
    if auth.server_address and canonical_host(_host_of(auth.server_address)) != reference.host:
        return None
    user, password = auth.username, auth.password
    if not (user or auth.identity_token) and auth.auth:
        user, password = _user_and_password(auth.auth)
    found = {
        "username": user,
        "secret": password,
        "identity_token": auth.identity_token,
        "registry_token": auth.registry_token,
    }
    if not (user or auth.identity_token or auth.registry_token):
        return None
    image = f"{reference.host}/{reference.repository}"
    return {"host": reference.host, "image": image, **{key: value for key, value in found.items() if value}}


def _host_of(address: str) -> str:
    try:
        return urlsplit(address if "://" in address else f"//{address}").netloc
    except ValueError:
        return ""


def _user_and_password(auth: str) -> tuple[str, str]:
    try:
        decoded = base64.b64decode(auth, validate=True).decode()
    except ValueError as e:  # not base64, or not UTF-8
        raise UsageError("credentials that are not base64 of USER:PASSWORD") from e
    user, _, password = decoded.partition(":")
    return user, password.strip("\0")
