"""Makes certificates: an authority of its own, and what it signs. Files only; knows no network.

Keys are ECDSA on P-256, written 0600 and never over another. What is in a directory made by ``init``:

| file | what |
|---|---|
| ``ca.pem`` | the authority's certificate: whoever verifies gets it |
| ``ca.key`` | its private key: stays here |
| ``NAME.pem``, ``NAME.key`` | what was issued: the certificate, and its private key |
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cafs.errors import ExistsError, NotFoundError, StorageError, UsageError

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._\-]{0,62}[A-Za-z0-9])?")
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,62})(?:\.[A-Za-z0-9_\-]{1,63})*"
)
_CLOCKS_DIFFER = datetime.timedelta(hours=1)
_BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as a file holds it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hex, for people to compare."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def key_pem(self) -> bytes:
        """The key as a file holds it, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class Authority:
    """One that signs."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._issuer_key_id = x509.SubjectKeyIdentifier.from_public_key(identity.key.public_key())

    @classmethod
    def make(cls, common_name: str, now: datetime.datetime, days: int) -> Self:
        """A new one, of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name)
        builder = (
            _builder(name, name, key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
        )
        return cls(Identity(builder.sign(key, hashes.SHA256()), key))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """From a directory made by ``save``.

        Raises:
            NotFoundError: there is none.
            UsageError: what is there is no authority.
        """
        identity = load_identity(directory / CA_CERTIFICATE, directory / CA_KEY)
        try:
            constraints = identity.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            may_sign = constraints.value.ca
        except x509.ExtensionNotFound:
            may_sign = False
        if not may_sign:
            raise UsageError(f"{directory / CA_CERTIFICATE} is not the certificate of an authority")
        return cls(identity)

    @property
    def identity(self) -> Identity:
        """Its own certificate and key."""
        return self._identity

    def issue(
        self,
        name: str,
        addresses: Sequence[str],
        now: datetime.datetime,
        days: int,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Identity:
        """A certificate for both sides of a connection, never longer valid than the authority's own.

        Args:
            name: Its common name.
            addresses: IP addresses and DNS names that it is good for.
            now: Valid from an hour before: clocks differ.
            days: Valid for so long.
            key: Whose; None: a new one.

        Raises:
            UsageError: an address is none.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        ours = self._identity.certificate
        builder = (
            _builder(_name(name), ours.subject, key.public_key(), now, days, ours.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_BOTH_SIDES), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._issuer_key_id),
                critical=False,
            )
        )
        if addresses:
            names = x509.SubjectAlternativeName([parse_address(address) for address in addresses])
            builder = builder.add_extension(names, critical=False)
        return Identity(builder.sign(self._identity.key, hashes.SHA256()), key)

    def save(self, directory: Path) -> None:
        """Write into a directory, which is made 0700 if need be.

        Raises:
            ExistsError: there is an authority already.
        """
        _make_directory(directory)
        save_identity(self._identity, directory / CA_CERTIFICATE, directory / CA_KEY)


def parse_address(text: str) -> x509.GeneralName:
    """What a certificate says of an IP address or a DNS name.

    Raises:
        UsageError: it is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        if not _DNS_NAME.fullmatch(text):
            raise UsageError(f"{text[:80]!r} is neither an IP address nor a DNS name") from None
        return x509.DNSName(text.lower())


def check_name(name: str) -> str:
    """A name that can be a file's, too.

    Raises:
        UsageError: it cannot, or it is the authority's own.
    """
    if not _NAME.fullmatch(name) or f"{name}.pem" == CA_CERTIFICATE:
        raise UsageError(f"{name[:80]!r}: a name has letters, digits, '.', '_', '-', and is not 'ca'")
    return name


def load_identity(certificate: Path, key: Path) -> Identity:
    """Read both files; that they belong together is checked.

    Raises:
        NotFoundError: one of them is missing.
        UsageError: they are not what they should be.
        StorageError: they cannot be read.
    """
    try:
        read_certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
        read_key = serialization.load_pem_private_key(key.read_bytes(), None)
    except FileNotFoundError as e:
        raise NotFoundError(f"{e.filename} does not exist: make it by 'cafs ca'") from e
    except OSError as e:
        raise StorageError(f"cannot read {e.filename}: {e.strerror}") from e
    except (ValueError, TypeError) as e:
        raise UsageError(f"{certificate} or {key} does not hold what it should") from e
    if not isinstance(read_key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{key} is not an ECDSA key")
    if read_certificate.public_key() != read_key.public_key():
        raise UsageError(f"{certificate} and {key} do not belong together")
    return Identity(read_certificate, read_key)


def save_identity(identity: Identity, certificate: Path, key: Path) -> None:
    """Write both files, the key 0600; neither over another. The key's directory is made, for its owner only.

    Raises:
        ExistsError: one of them is there.
        StorageError: they cannot be written.
    """
    for path in (certificate, key):
        if path.exists() or path.is_symlink():
            raise ExistsError(f"{path} is there already, and is not written over")
    _make_directory(key.parent)
    _write_new(key, identity.key_pem, 0o600)
    _write_new(certificate, identity.certificate_pem, 0o644)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot make {directory}: {e.strerror}") from e


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError as e:
        raise ExistsError(f"{path} is there already, and is not written over") from e
    except OSError as e:
        raise StorageError(f"cannot write {path}: {e.strerror}") from e


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(  # noqa: PLR0917 - what a certificate says, in its order
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
    until_at_most: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    until = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(min(until, until_at_most) if until_at_most else until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
