"""The cluster's keys and certificates, and the kubeconfigs with them."""

from __future__ import annotations

import datetime
import ipaddress
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ruamel.yaml import YAML

from .paths import write

DAY = datetime.timedelta(days=1)
RENEW_BEFORE = 60 * DAY


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Leaf:
    """Contents of a certificate: its subject, and its host names if it is a server's."""

    name: str
    group: str = ""
    hosts: tuple[str, ...] = ()


class Authority:
    """A certificate authority in a folder; it issues each certificate once, and renews it before its end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        if not self.pair.cert.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = _subject(Leaf(f"ultramarine-{name}"))
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            cert = (
                _builder(subject, subject, key.public_key(), 3650)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(usage, critical=True)
                .sign(key, hashes.SHA256())
            )
            _save(self.pair, key, cert)
        self._cert = x509.load_pem_x509_certificate(self.pair.cert.read_bytes())
        self._key = _load_key(self.pair.key)

    def issue(self, file: str, leaf: Leaf) -> Pair:
        """Return the certificate with the contents `leaf`, in files of that name."""
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if _still_good(pair, leaf, self._cert):
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if leaf.hosts else [])
        builder = (
            _builder(_subject(leaf), self._cert.subject, key.public_key(), 730)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if leaf.hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(_names(leaf.hosts)), critical=False)
        _save(pair, key, builder.sign(self._key, hashes.SHA256()))
        return pair


def signing_key(folder: Path) -> Pair:
    """Return the key that signs service-account tokens; `cert` is its public half."""
    pair = Pair(folder / "service-account.pub", folder / "service-account.key")
    if not (pair.key.exists() and pair.cert.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        _put(pair.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        _put(pair.cert, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return pair


def kubeconfig(path: Path, url: str, authority: Authority, client: Pair) -> Path:
    """Write a self-contained kubeconfig, readable by its owner alone."""
    name = "ultramarine"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": url, "certificate-authority-data": _b64(authority.pair.cert)}}
        ],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": _b64(client.cert), "client-key-data": _b64(client.key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    write(path, yaml(document), mode=0o600)
    return path


def yaml(document: object) -> str:
    """Return a document as YAML, with equal text for equal documents."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 4096
    out = StringIO()
    writer.dump(document, out)
    return out.getvalue()


def _b64(path: Path) -> str:
    return b64encode(path.read_bytes()).decode()


def _subject(leaf: Leaf) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.group)] if leaf.group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, leaf.name)])


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # An hour ago, for clocks that step back.
        .not_valid_before(now - DAY / 24)
        .not_valid_after(now + days * DAY)
    )


def _still_good(pair: Pair, leaf: Leaf, authority: x509.Certificate) -> bool:
    if not (pair.cert.exists() and pair.key.exists()):
        return False
    cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
    try:
        names = list(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    try:
        cert.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    soon = datetime.datetime.now(datetime.UTC) + RENEW_BEFORE
    same_key = cert.public_key() == _load_key(pair.key).public_key()
    return (
        cert.subject == _subject(leaf) and names == _names(leaf.hosts) and cert.not_valid_after_utc > soon and same_key
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds no elliptic-curve key")
    return key


def _save(pair: Pair, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate) -> None:
    # The key first: if the certificate exists, both exist.
    _put(pair.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _put(pair.cert, cert.public_bytes(Encoding.PEM))


def _put(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.rename(path)
