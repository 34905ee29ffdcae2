"""An authority of a test's own, and certificates of it in folders as the platform's Secrets are mounted."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Authority:
    """Signs certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._signed(self._name, self._key.public_key(), basic)

    def issue(self, folder: Path, *names: str, lasts: timedelta = timedelta(days=1)) -> int:
        """Write a certificate for these names and 127.0.0.1, or over the one there; return its serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, names), x509.IPAddress(LOOPBACK)])
        made = self._signed(subject, key.public_key(), alternatives, lasts)
        folder.mkdir(exist_ok=True)
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files = {
            "ca.crt": self.pem.encode(),
            "tls.key": key.private_bytes(pem, pkcs8, serialization.NoEncryption()),
            "tls.crt": made.public_bytes(pem),  # last: by it servers see that both are new
        }
        for name, content in files.items():
            (folder / f".{name}").write_bytes(content)
            (folder / f".{name}").rename(folder / name)
        return made.serial_number

    @property
    def pem(self) -> str:
        """The authority's own certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        more: x509.ExtensionType,
        lasts: timedelta = timedelta(days=1),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().issuer_name(self._name).subject_name(subject).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(more, critical=False)
        dated = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + lasts)
        return dated.sign(self._key, hashes.SHA256())


def serial_of(pem: bytes) -> int:
    """The serial number of a certificate."""
    return x509.load_pem_x509_certificate(pem).serial_number


def serial_at(
    port: int, *protocols: str, host: str = "127.0.0.1", name: str = "", context: ssl.SSLContext | None = None
) -> int:
    """The serial number of the certificate that is shown at a port, for `name` if a context checks it."""
    context = context or ssl._create_unverified_context()
    context.set_alpn_protocols(list(protocols))
    plain = socket.create_connection((host, port), timeout=30)
    with context.wrap_socket(plain, server_hostname=name or None) as secured:
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def speaks_plainly(port: int, host: str = "127.0.0.1") -> bool:
    """True if a server answers a plain HTTP request."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status > 0
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
