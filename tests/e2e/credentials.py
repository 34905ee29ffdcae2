"""Tokens and certificates for endpoints: a signed JWT and its key set, an authority, and a verified connection."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from typing import Any

from conftest import Manifest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from manifests import infer


def base64url(data: bytes) -> str:
    """As JOSE writes bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(key: rsa.RSAPrivateKey, **claims: Any) -> str:
    """A JWT by RS256."""
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT", "kid": "1"}, claims)]
    signed = ".".join(map(base64url, parts))
    return f"{signed}.{base64url(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def key_set(key: rsa.RSAPrivateKey) -> str:
    """The public half, as a JSON Web Key Set."""
    numbers = key.public_key().public_numbers()
    n, e = (base64url(value.to_bytes((value.bit_length() + 7) // 8, "big")) for value in (numbers.n, numbers.e))
    return json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": n, "e": e}]})


class Authority:
    """Signs certificates for one name."""

    def __init__(self, name: str) -> None:
        self._name, self._key = name, ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests of the gateway")])
        self._issuer = issuer
        made = self._begun(issuer, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self._own = made.sign(self._key, hashes.SHA256())

    def _begun(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now, begun = datetime.now(UTC), x509.CertificateBuilder().subject_name(subject).issuer_name(self._issuer)
        begun = begun.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return begun.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    @property
    def trusting(self) -> ssl.SSLContext:
        """Return a TLS context that trusts this authority alone."""
        pem = self._own.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)

    def secret(self, name: str) -> tuple[Manifest, int]:
        """A Secret with a new certificate, as cert-manager makes it, and the certificate's serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "served")])
        names = x509.SubjectAlternativeName([x509.DNSName(self._name)])
        made = self._begun(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        pem = {
            "tls.crt": made.public_bytes(serialization.Encoding.PEM).decode(),
            "tls.key": key.private_bytes(*form).decode(),
        }
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}}
        return {**secret, "stringData": pem}, made.serial_number


class Connection(HTTPSConnection):
    """A verified connection to an address under a name that only the cluster's DNS knows."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        super().__init__(name, 443, timeout=60, context=context)
        self._address, self._verifying = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, 443), timeout=60)
        self.sock = self._verifying.wrap_socket(plain, server_hostname=self.host)

    def ask(self, path: str, key: str) -> int:
        """The code of one request on this very connection."""
        headers = {"api-key": key, "Content-Type": "application/json"}
        self.request("POST", path, json.dumps(infer([[0.0]])), headers)
        answer = self.getresponse()
        answer.read()
        return answer.status

    @property
    def serial(self) -> int:
        """The serial number of the certificate that was shown."""
        assert isinstance(self.sock, ssl.SSLSocket)
        return x509.load_der_x509_certificate(self.sock.getpeercert(binary_form=True) or b"").serial_number
