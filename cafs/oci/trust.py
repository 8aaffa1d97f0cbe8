"""Which index artifacts are believed: the one place where that is decided.

``cafs.oci.artifact_lookup`` asks for every artifact it finds, ``cafs.fetch.open_image`` for what it
remembers, so that mounts, the mount server and every command obey the same policy. Settings:
``trusted_registries``, ``trusted_keys``, ``signed_registries`` (docs/operations.md).

An artifact that the image's own manifest names (``cafs convert --image``) needs no signature: nobody can
have attached it later, and whoever believes the image's digest believes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cafs.core.settings import Settings
from cafs.errors import StorageError, UntrustedError, UsageError
from cafs.oci.artifact import IndexArtifact
from cafs.oci.in_thread import in_thread

if TYPE_CHECKING:  # loaded where there are keys: a mount must not wait for it
    from cafs.oci.signature import PublicKey

ANY = "*"
_REGISTRY = "docker://"
"""What names of registries begin with; patterns need not."""


class TrustedKey(NamedTuple):
    """A public key, for the repositories that fit a pattern."""

    pattern: str
    key: PublicKey


class TrustPolicy(NamedTuple):
    """Decides by a repository's name, as ``docker://HOST[:PORT]/PATH`` or ``oci:DIR``, and a signature."""

    registries: tuple[str, ...] = (ANY,)
    """Patterns of the repositories whose artifacts are used at all."""
    keys: tuple[TrustedKey, ...] = ()
    signed: tuple[str, ...] = ()
    """Patterns of the repositories whose artifacts must be signed by one of ``keys``."""
    binding_counts: bool = True
    """Whether an artifact that the image's own manifest names is believed without a signature."""

    def check_repository(self, name: str) -> None:
        """Before anything is asked of a repository.

        Raises:
            UntrustedError: its artifacts are not used.
        """
        if not _fits_any(name, self.registries):
            raise UntrustedError(
                f"index artifacts of {name} are not used: trusted_registries does not name it"
            )

    def wants_signature(self, name: str, *, is_bound: bool) -> bool:
        """Whether ``check_signature`` is needed for an artifact of the repository."""
        return _fits_any(name, self.signed) and not (is_bound and self.binding_counts)

    def check_signature(self, name: str, artifact: IndexArtifact) -> None:
        """Blocks for a moment.

        Raises:
            UntrustedError: it is not validly signed by a key that is trusted for this repository.
        """
        from cafs.oci.signature import is_valid  # noqa: PLC0415 - see above

        keys = {trusted.key for trusted in self.keys if fits(name, trusted.pattern)}
        signature = artifact.signature
        if not keys:
            raise UntrustedError(f"no key of trusted_keys is for {name}, where a signature is required")
        if signature is None:
            raise UntrustedError("it is not signed, and a signature is required")
        if signature.key not in keys:
            raise UntrustedError(f"it is signed by {signature.key}, which is not in trusted_keys")
        if not is_valid(artifact):
            raise UntrustedError(f"its signature is not by {signature.key}: forged, or of another artifact")


async def check_trust(policy: TrustPolicy, name: str, artifact: IndexArtifact, *, is_bound: bool) -> None:
    """Hold an artifact of the repository ``name`` against the policy.

    Args:
        is_bound: The image's own manifest names it.

    Raises:
        UntrustedError: it is not believed, and why.
    """
    policy.check_repository(name)
    if policy.wants_signature(name, is_bound=is_bound):
        await in_thread(policy.check_signature, name, artifact)


def trust_policy(settings: Settings) -> TrustPolicy:
    """The policy that the settings ask for.

    Raises:
        UsageError, StorageError: a key cannot be read, or the settings contradict each other. A policy that
            cannot be kept lets nothing through.
    """
    keys = tuple(_parse_entry(entry) for entry in settings.trusted_keys)
    signed = settings.signed_registries
    if signed and not keys:
        raise UsageError("signed_registries asks for signatures, but trusted_keys names no key")
    return TrustPolicy(settings.trusted_registries, keys, signed or ((ANY,) if keys else ()))


async def load_trust_policy(settings: Settings) -> TrustPolicy:
    """``trust_policy``, its files read on another thread."""
    return await in_thread(trust_policy, settings) if settings.trusted_keys else trust_policy(settings)


def signed_by(key: PublicKey) -> TrustPolicy:
    """Believes what this very key signed."""
    return TrustPolicy((ANY,), (TrustedKey(ANY, key),), (ANY,), binding_counts=False)


def _parse_entry(entry: str) -> TrustedKey:
    """``[PATTERN ]KEY``, where KEY is ``ed25519:BASE64`` or an absolute path."""
    pattern, space, rest = entry.strip().partition(" ")
    if not space or pattern.startswith("/"):
        pattern, rest = ANY, entry
    text = rest.strip()
    from cafs.oci.signature import load_public_key, parse_public_key  # noqa: PLC0415 - see above

    try:
        if text.startswith("/"):
            return TrustedKey(pattern, load_public_key(Path(text)))
        return TrustedKey(pattern, parse_public_key(text))
    except (UsageError, StorageError) as e:
        raise type(e)(f"trusted_keys: {e}") from e


def _fits_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fits(name, pattern) for pattern in patterns)


def fits(name: str, pattern: str) -> bool:
    """Whether a repository's name is the pattern, or below it; ``*`` stands for any characters."""
    wanted = re.escape(pattern.removeprefix(_REGISTRY).rstrip("/")).replace(r"\*", ".*")
    return re.fullmatch(f"{wanted}(?:/.*)?", name.removeprefix(_REGISTRY), re.DOTALL) is not None
