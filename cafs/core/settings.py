"""The settings of one CAFS process: what each is called, means, defaults to and may be.

Pure data. ``cafs.cli.config`` fills it from files, environment and flags; whoever needs a setting is
handed the ``Settings`` object and never reads a file or a variable of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

_MIB, _GIB = 1 << 20, 1 << 30


class Kind(Enum):
    """How a setting is written down."""

    PATH = "path"
    BYTES = "size"
    COUNT = "number"
    SECONDS = "number of seconds"
    NAMES = "list of names"
    TEXT = "text"
    SWITCH = "switch"


def _about(kind: Kind, doc: str, *, least: float = 0, most: float = 2**63 - 1) -> dict[str, Any]:
    """How a setting is written, explained and bounded: the metadata of its field."""
    return {"kind": kind, "doc": doc, "least": least, "most": most}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be configured. The defaults suit one machine and one registry."""

    cache_dir: Path = field(
        metadata=_about(
            Kind.PATH, "where indexes, chunks and profiles are kept; on a local filesystem, LMDB needs one"
        )
    )
    run_dir: Path = field(
        metadata=_about(Kind.PATH, "where sockets and the state of running mounts are kept")
    )
    store_quota_bytes: int = field(
        default=20 * _GIB,
        metadata=_about(Kind.BYTES, "how much the chunk store may hold", least=16 * _MIB),
    )
    memory_cache_bytes: int = field(
        default=16 * _MIB,
        metadata=_about(Kind.BYTES, "plain chunks that a mount keeps in memory", least=4 * _MIB),
    )
    fetch_concurrency: int = field(
        default=8,
        metadata=_about(
            Kind.COUNT,
            "range requests that one mount has under way at once to one registry",
            least=1,
            most=256,
        ),
    )
    read_deadline_s: float = field(
        default=60.0,
        metadata=_about(
            Kind.SECONDS,
            "after this long a read whose bytes have not come fails with ETIMEDOUT",
            least=0.1,
            most=86400,
        ),
    )
    connect_timeout_s: float = field(
        default=10.0,
        metadata=_about(
            Kind.SECONDS, "how long to wait for a connection to a registry", least=0.1, most=3600
        ),
    )
    stall_timeout_s: float = field(
        default=20.0,
        metadata=_about(
            Kind.SECONDS,
            "how long a registry may send nothing before a request is given up and tried again",
            least=0.1,
            most=3600,
        ),
    )
    retries: int = field(
        default=5,
        metadata=_about(
            Kind.COUNT,
            "how often a request is tried again after a failure that may pass; while a reader waits it is"
            " tried until `read_deadline_s`, whatever this says",
            most=100,
        ),
    )
    insecure_registries: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "registries (HOST or HOST:PORT) spoken to in plain HTTP; one on loopback is so without being"
            " named, unless it wants TLS",
        ),
    )
    trusted_registries: tuple[str, ...] = field(
        default=("*",),
        metadata=_about(
            Kind.NAMES,
            "whose index artifacts are used: HOST[:PORT], HOST/REPOSITORY or oci:DIR, and all below it;"
            " `*` stands for anything",
        ),
    )
    trusted_keys: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "keys that sign index artifacts: `ed25519:BASE64` or the absolute path of a PEM file; behind"
            " a pattern as above and a space, for these registries only",
        ),
    )
    signed_registries: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "where a signature by one of `trusted_keys` is required; empty: everywhere, once there is a key",
        ),
    )
    convert_workers: int = field(
        default=0,
        metadata=_about(
            Kind.COUNT,
            "chunks compressed side by side, and layers converted, of these at most 4; 0: one for each core",
            most=256,
        ),
    )
    scheduler_alive_s: float = field(
        default=10.0,
        metadata=_about(
            Kind.SECONDS,
            "how often hosts tell the scheduler that they are alive; after three times as long they are gone",
            least=0.5,
            most=600,
        ),
    )
    scheduler_parents: int = field(
        default=32,
        metadata=_about(Kind.COUNT, "peers that the scheduler offers to one peer", least=4, most=256),
    )
    scheduler_source_peers: int = field(
        default=4,
        metadata=_about(
            Kind.COUNT, "peers that may fetch one task from its source when no seed does", least=1, most=1024
        ),
    )
    scheduler_seed_patience_s: float = field(
        default=5.0,
        metadata=_about(Kind.SECONDS, "how long a seed may take to begin with a task", least=0.1, most=600),
    )
    scheduler_task_idle_s: float = field(
        default=86400.0,
        metadata=_about(
            Kind.SECONDS, "after this long without a download a task is deleted from all hosts", least=60
        ),
    )
    scheduler_shun_s: float = field(
        default=3600.0,
        metadata=_about(Kind.SECONDS, "how long a host that gave wrong bytes is nobody's parent", least=1),
    )
    proxy_rules: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "`ACTION REGEX` each, the first that matches the address decides: p2p, direct, blocked, or https"
            " (asked in TLS although the client spoke plain HTTP)",
        ),
    )
    proxy_allow: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "loopback, link-local and metadata addresses that clients of the proxy, peers, and seeds for"
            " others, may reach all the same: networks, HOST or HOST:PORT",
        ),
    )
    proxy_mirrors: tuple[str, ...] = field(
        default=(),
        metadata=_about(Kind.NAMES, "sites mirrored below a path of the proxy: `NAME=https://HOST[/PATH]`"),
    )
    proxy_registry: str = field(
        default="docker.io",
        metadata=_about(
            Kind.TEXT, "whom the mirror asks when a request names no registry: HOST or HOST:PORT"
        ),
    )
    proxy_intercept: tuple[str, ...] = field(
        default=(),
        metadata=_about(Kind.NAMES, "hosts whose TLS the proxy opens: HOST[:PORT] or *.DOMAIN[:PORT]"),
    )
    proxy_ca: Path = field(
        default=Path("/etc/cafs/interception"),
        metadata=_about(Kind.PATH, "the authority that signs for these hosts, made by `cafs ca init`"),
    )
    schedulers: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "HOST:PORT of the schedulers that this node's peer may use, beside those that a manager names",
        ),
    )
    manager_database: str = field(
        default="",
        metadata=_about(
            Kind.TEXT,
            "where the manager keeps everything: sqlite:////PATH or postgresql://USER:PASSWORD@HOST/NAME;"
            " empty: SQLite in `cache_dir`/manager",
        ),
    )
    manager_site: str = field(
        default="",
        metadata=_about(
            Kind.TEXT,
            "where people reach the manager, for links: https://HOST[:PORT]; empty: where it listens",
        ),
    )
    manager_conversions: int = field(
        default=1,
        metadata=_about(
            Kind.COUNT, "images that this replica of the manager converts at once, for jobs; 0: none", most=64
        ),
    )
    manager_url: str = field(
        default="http://127.0.0.1:65004",
        metadata=_about(Kind.TEXT, "the manager's REST, for `cafs job`: https://HOST[:PORT]"),
    )
    manager_token: str = field(
        default="",
        metadata=_about(
            Kind.TEXT, "personal access token for the manager (give it by CAFS_MANAGER_TOKEN or a file)"
        ),
    )
    manager_ca: str = field(
        default="",
        metadata=_about(
            Kind.TEXT, "file with the authority of the manager's certificate; empty: the system's"
        ),
    )
    manager_oidc_issuer: str = field(
        default="",
        metadata=_about(
            Kind.TEXT, "OpenID provider at which people may sign in to the manager: https://...; empty: none"
        ),
    )
    manager_oidc_client: str = field(
        default="", metadata=_about(Kind.TEXT, "the client id that the provider gave the manager")
    )
    manager_oidc_secret: str = field(
        default="",
        metadata=_about(Kind.TEXT, "the client's secret; empty: it has none (PKCE is used anyhow)"),
    )
    manager_oidc_name: str = field(
        default="preferred_username",
        metadata=_about(Kind.TEXT, "claim of the provider's token that is the account's name"),
    )
    manager_oidc_groups: str = field(
        default="groups", metadata=_about(Kind.TEXT, "claim that lists somebody's groups")
    )
    manager_oidc_roles: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "GROUP=viewer, operator or admin: who may come in, and as what; none: only accounts that were"
            " made for it",
        ),
    )
    managers: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES,
            "HOST:PORT of the manager's replicas, of which scheduler, seed, peer and proxy use one; none:"
            " they do without",
        ),
    )
    learned_profiles: bool = field(
        default=True,
        metadata=_about(
            Kind.SWITCH,
            "whether the mount server tells the manager, by way of the peer, which chunks a start read, and"
            " prefetches by what the manager has learned of other starts",
        ),
    )
    scheduler_address: str = field(
        default="",
        metadata=_about(
            Kind.TEXT, "HOST:PORT at which others reach the scheduler, if that is not where it listens"
        ),
    )
    peer_listen: str = field(
        default="127.0.0.1:65002",
        metadata=_about(Kind.TEXT, "where the peer serves other hosts: HOST:PORT"),
    )
    peer_address: str = field(
        default="",
        metadata=_about(
            Kind.TEXT, "HOST:PORT at which other hosts reach it, if that is not where it listens"
        ),
    )
    idc: str = field(default="", metadata=_about(Kind.TEXT, "the data centre that this host is in"))
    location: str = field(
        default="",
        metadata=_about(
            Kind.TEXT,
            "where in it, widest first, as in europe/zone3/rack7 but divided by vertical bars",
        ),
    )
    task_quota_bytes: int = field(
        default=20 * _GIB,
        metadata=_about(Kind.BYTES, "how much the peer may hold of files and blobs", least=16 * _MIB),
    )
    concurrent_uploads: int = field(
        default=64,
        metadata=_about(Kind.COUNT, "requests of other hosts that the peer serves at once", most=4096),
    )
    uploads_per_client: int = field(
        default=16,
        metadata=_about(Kind.COUNT, "of these, requests of one address", least=1, most=4096),
    )
    concurrent_children: int = field(
        default=64,
        metadata=_about(Kind.COUNT, "other hosts that the peer serves at once", least=1, most=4096),
    )
    concurrent_pieces: int = field(
        default=32,
        metadata=_about(Kind.COUNT, "pieces that the peer downloads at once", least=1, most=1024),
    )
    upload_rate_bytes: int = field(
        default=0,
        metadata=_about(Kind.BYTES, "bytes a second that the peer sends to other hosts; 0: no limit"),
    )
    download_rate_bytes: int = field(
        default=0,
        metadata=_about(Kind.BYTES, "bytes a second that it takes from other hosts; 0: no limit"),
    )
    source_rate_bytes: int = field(
        default=0,
        metadata=_about(Kind.BYTES, "bytes a second that it takes from registries and origins; 0: no limit"),
    )
    task_concurrent_pieces: int = field(
        default=32,
        metadata=_about(
            Kind.COUNT, "pieces of one file or blob that the peer downloads at once", least=1, most=1024
        ),
    )
    task_upload_rate_bytes: int = field(
        default=0,
        metadata=_about(
            Kind.BYTES, "bytes a second that it sends of one file or blob, to all hosts; 0: no limit"
        ),
    )
    task_download_rate_bytes: int = field(
        default=0,
        metadata=_about(
            Kind.BYTES, "bytes a second that it takes of one file or blob from other hosts; 0: no limit"
        ),
    )
    task_source_rate_bytes: int = field(
        default=0,
        metadata=_about(
            Kind.BYTES, "bytes a second that it takes of one file or blob from its origin; 0: no limit"
        ),
    )
    shared_directories: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            Kind.NAMES, "directories with the same files on every host, of which the peer may share file://"
        ),
    )
    peer_certificate: str = field(
        default="",
        metadata=_about(
            Kind.TEXT, "file with this host's certificate: given, hosts speak mutual TLS with each other"
        ),
    )
    peer_key: str = field(default="", metadata=_about(Kind.TEXT, "file with the certificate's key"))
    peer_ca: str = field(
        default="",
        metadata=_about(Kind.TEXT, "file with the authority that signed other hosts' certificates"),
    )
