"""Jobs, as they are sent: what is to be done, by which hosts."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from cafs.core.digest import parse_digest
from cafs.core.proxying.guard import is_own_to_each_host
from cafs.core.swarm.ids import (
    OWN_CREDENTIALS,
    canonical_url,
    headers_have_credentials,
    url_has_credentials,
)
from cafs.core.swarm.priorities import HIGHEST, USUAL
from cafs.errors import UsageError
from cafs.manager.http.models import MOST_ID, Sent
from cafs.oci.reference import RegistryReference, parse_reference

_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
_SCHEMES = frozenset(["http", "https", "s3", "s3a", "gs", "gcs", "hf", "hdfs", "file"])
"""That peers know: ``cafs.p2p.drivers``."""
_OWN = "hosts would need credentials for it, which a job does not keep or hand on"


def _url(text: str) -> str:
    try:
        canonical_url(text)
        parts = urlsplit(text)
    except UsageError as e:
        raise ValueError(str(e)) from None
    if parts.scheme not in _SCHEMES or (parts.scheme != "file" and not parts.hostname):
        raise ValueError(f"an address of {', '.join(sorted(_SCHEMES))}")
    if url_has_credentials(text):
        raise ValueError(_OWN)
    _check_host(parts.hostname or "")
    return text


def _check_host(host: str) -> None:
    with suppress(OSError, UnicodeError):  # resolvers take 2852039166 and 0xa9.254.43518 for addresses, too
        host = socket.inet_ntoa(socket.inet_aton(host))
    if is_own_to_each_host(host):
        raise ValueError("a link-local address, or metadata of a cloud: each host would ask its own")


def _digest(text: str) -> str:
    try:
        return str(parse_digest(text))
    except UsageError as e:
        raise ValueError(str(e)) from None


Url = Annotated[
    str,
    Field(min_length=1, max_length=8192, pattern=_PRINTABLE, examples=["https://models.lan/m.bin"]),
    AfterValidator(_url),
]
Digest = Annotated[str, Field(max_length=80, pattern=r"^sha256:[0-9a-f]{64}$"), AfterValidator(_digest)]
Word = Annotated[str, Field(max_length=255, pattern=_PRINTABLE)]


class HeaderSent(Sent):
    """A header for the origin."""

    name: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
    value: Annotated[str, Field(max_length=4096, pattern=r"^[\t\x20-\x7e]*$")]


class FileSent(Sent):
    """A file: what `cafs get` would be told."""

    url: Url
    digest: Digest | None = None
    tag: Word = ""
    application: Word = ""
    filtered_query: Annotated[list[Word], Field(max_length=64)] = []  # noqa: RUF012 - pydantic copies it
    headers: Annotated[list[HeaderSent], Field(max_length=64)] = []  # noqa: RUF012 - the same
    priority: Annotated[int, Field(ge=1, le=HIGHEST, strict=True)] = USUAL

    @model_validator(mode="after")
    def _without_credentials(self) -> FileSent:
        told = [(header.name, header.value) for header in self.headers]
        if headers_have_credentials(pair for pair in told if (pair[0].lower(), pair[1]) != OWN_CREDENTIALS):
            raise ValueError(f"headers: {_OWN}")
        return self


def _image(text: str) -> str:
    try:
        reference = parse_reference(text)
    except UsageError as e:
        raise ValueError(str(e)) from None
    if not isinstance(reference, RegistryReference):
        raise ValueError("an image in a registry: HOST/REPOSITORY:TAG or @DIGEST")  # noqa: TRY004 - a text's
    _check_host(urlsplit(f"//{reference.host}").hostname or "")
    return text


Image = Annotated[
    str,
    Field(min_length=1, max_length=512, pattern=_PRINTABLE, examples=["registry.lan/app:v2"]),
    AfterValidator(_image),
]
PlatformName = Annotated[
    str, Field(max_length=80, pattern=r"^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$", examples=["linux/arm64"])
]


class ImageSent(Sent):
    """An image, and what of it."""

    image: Image
    content: Literal["all", "start"] = "all"
    platforms: Annotated[
        list[PlatformName], Field(max_length=16, description="By default each host's own.")
    ] = []  # noqa: RUF012 - pydantic copies it
    priority: Annotated[int, Field(ge=1, le=HIGHEST, strict=True)] = USUAL


HostName = Annotated[str, Field(min_length=1, max_length=255, pattern=_PRINTABLE)]
"""As long as one that a host says of itself."""


class ScopeSent(Sent):
    """Which of the cluster's peers (of a seed cluster: seeds) do it, as they are when it begins."""

    hosts: Literal["all", "one", "percent", "named"] = "all"
    percent: Annotated[
        int, Field(ge=1, le=100, strict=True, description="Of those that are active; with `percent`.")
    ] = 100
    names: Annotated[
        list[HostName], Field(max_length=1000, description="Names or ids of hosts; with `named`.")
    ] = []  # noqa: RUF012 - pydantic copies it

    @model_validator(mode="after")
    def _fits(self) -> ScopeSent:
        if bool(self.names) != (self.hosts == "named"):
            raise ValueError("names go with hosts: named, and are needed there")
        return self


class JobSent(Sent):
    """What every job says."""

    cluster_id: Annotated[int, Field(ge=1, le=MOST_ID, strict=True)]
    scope: ScopeSent = ScopeSent()
    concurrency: Annotated[
        int, Field(ge=1, le=1000, strict=True, description="Hosts that are at it at once.")
    ] = 50
    retries: Annotated[
        int, Field(ge=0, le=10, strict=True, description="Of a host that fails, by itself.")
    ] = 2
    timeout_s: Annotated[int, Field(ge=1, le=7 * 86_400, strict=True)] = 3600


class FilePreheat(JobSent):
    """Have a file on hosts before anybody asks for it."""

    kind: Literal["preheat_file"]
    spec: FileSent


class ImagePreheat(JobSent):
    """Have an image on hosts before its containers start."""

    kind: Literal["preheat_image"]
    spec: ImageSent


class TaskSent(Sent):
    """A task by its id, or by what `cafs get` was told."""

    task_id: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    url: Url | None = None
    digest: Digest | None = None
    tag: Word = ""
    application: Word = ""
    filtered_query: Annotated[list[Word], Field(max_length=64)] = []  # noqa: RUF012 - the same

    @model_validator(mode="after")
    def _one_of_them(self) -> TaskSent:
        if bool(self.task_id) == bool(self.url):
            raise ValueError("either task_id or url")
        return self


class Deletion(JobSent):
    """Have hosts hold nothing of a content any more."""

    kind: Literal["delete"]
    spec: TaskSent


class SyncSent(Sent):
    """Nothing is to be said."""


class Sync(JobSent):
    """Ask hosts what they hold."""

    kind: Literal["sync"]
    spec: SyncSent = SyncSent()


class GarbageSent(Sent):
    """What goes beside what is over the quotas."""

    idle_s: Annotated[
        int, Field(ge=0, le=1 << 31, strict=True, description="Tasks not used for so long; 0: none.")
    ] = 0


class GarbageCollection(JobSent):
    """Have hosts give room back."""

    kind: Literal["gc"]
    spec: GarbageSent = GarbageSent()


class ConversionSent(Sent):
    """What `cafs convert` is told."""

    image: Image
    target: Annotated[Image | None, Field(description="Where the result goes; null: to the image.")] = None
    bound: Annotated[
        Image | None, Field(description="Write a new image there that carries the result; not with `target`.")
    ] = None
    platform: Annotated[PlatformName | None, Field(description="Null: all of a multi-platform image.")] = None
    dictionaries: Annotated[
        list[Image], Field(max_length=16, description="Images whose chunks are referred to.")
    ] = []  # noqa: RUF012 - the same


class Conversion(JobSent):
    """Convert an image. A replica of the manager does it, with its own credentials for the registry."""

    kind: Literal["convert"]
    spec: ConversionSent


NewJob = Annotated[
    FilePreheat | ImagePreheat | Deletion | Sync | GarbageCollection | Conversion,
    Field(discriminator="kind"),
]
