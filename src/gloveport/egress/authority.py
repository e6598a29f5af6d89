"""An installation's certificate authority: what guests are made to trust, so that their TLS can be looked into."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import ssl
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gloveport.errors import BackendUnavailable

__all__ = ["Authority", "HostTls"]

_LIFE = timedelta(days=3650)
_LEAST_LEFT = timedelta(days=90)
"""An authority that ends sooner is made anew."""
_LEAF_LIFE = timedelta(days=14)
_LEAF_LEAST_LEFT = timedelta(days=3)
_CLOCKS_DIFFER = timedelta(days=1)
_MOST_HOSTS = 512
_NAME = "Gloveport egress"


class HostTls:
    """The server's side of TLS for one host: only a client that asks for this very name gets its certificate."""

    def __init__(self, host: str, chain: str, ends_at: datetime) -> None:
        self.ends_at = ends_at
        self.refused: str | None = None
        """The name that the last refused client asked for; read it in the same step as its `ssl.SSLError`."""
        self._host = host
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.sni_callback = self._check
        # OpenSSL reads certificates from files only: this one is in memory, and gone with the block.
        with os.fdopen(os.memfd_create("leaf", os.MFD_CLOEXEC), "w", encoding="ascii") as file:
            file.write(chain)
            file.flush()
            self.context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")

    def _check(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int | None:
        asked = name.lower().removesuffix(".") if name is not None else self._unnamed
        if asked == self._host:
            return None
        self.refused = name or ""
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    @property
    def _unnamed(self) -> str:
        """Of a client that names nobody: right for an address, which TLS has no way to name."""
        return self._host if _as_address(self._host) is not None else ""


class Authority:
    """Signs certificates for the hosts that are looked into. Its private key never leaves this host's file."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._hosts: OrderedDict[str, HostTls] = OrderedDict()

    @classmethod
    def load(cls, path: Path) -> Authority:
        """The authority in the file `path` (0600), made there when there is none or it ends soon.

        Two processes that begin at once agree on one. Raises `BackendUnavailable`.
        """
        try:
            found = _read(path)
            if found is None:
                _make(path)
                found = _read(path)
        except (OSError, ValueError) as error:
            raise BackendUnavailable(
                f"cannot use the certificate authority {path}: {error}",
                hint="remove the file: another is made; sandboxes that run keep trusting the old one until they end",
            ) from error
        if found is None:
            raise BackendUnavailable(f"cannot keep {path}", hint="check the clock of this host")
        return cls(*found)

    @property
    def certificate(self) -> str:
        """The public part, as PEM: what guests trust."""
        return _pem(self._certificate)

    def tls(self, host: str) -> HostTls:
        """The server's side of TLS for `host`, a canonical name or address; the last 512 are kept."""
        found = self._hosts.pop(host, None)
        if found is None or found.ends_at < datetime.now(UTC) + _LEAF_LEAST_LEFT:
            found = self._sign(host)
        self._hosts[host] = found
        if len(self._hosts) > _MOST_HOSTS:
            self._hosts.popitem(last=False)
        return found

    def _sign(self, host: str) -> HostTls:
        address = _as_address(host)
        name = x509.DNSName(host) if address is None else x509.IPAddress(address)
        ends_at = datetime.now(UTC) + _LEAF_LIFE
        builder = (
            _builder(_new_name(), self._certificate.subject, self._leaf_key.public_key(), ends_at)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        leaf = builder.sign(self._key, hashes.SHA256())
        return HostTls(host, _pem(leaf) + self.certificate + _private(self._leaf_key), ends_at)


def _read(path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
    """What the file holds; `None` where there is none, or one that ends soon."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        os.fchmod(descriptor, 0o600)
        data = file.read()
    key = serialization.load_pem_private_key(data, None)
    certificate = x509.load_pem_x509_certificate(data)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("its key and its certificate do not belong together")
    if certificate.not_valid_after_utc < datetime.now(UTC) + _LEAST_LEFT:
        path.unlink(missing_ok=True)
        return None
    return key, certificate


def _make(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _new_name()
    builder = (
        _builder(name, name, key.public_key(), datetime.now(UTC) + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(_private(key) + _pem(builder.sign(key, hashes.SHA256())))
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)  # who links first has made it; the other takes that one
    finally:
        scratch.unlink()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends_at: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _CLOCKS_DIFFER)
        .not_valid_after(ends_at)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _new_name() -> x509.Name:
    """Each name is another one: programs that find two authorities by one name try the wrong key."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME} {secrets.token_hex(4)}")])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
