"""TLS between the platform's own programs, by certificates of mounted Secrets that are renewed now and then."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"  # entries of the Secrets
_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME: a certificate that has ended has a date too


def server_name(component: str, namespace: str) -> str:
    """Return the name that a namespace's server, gateway or sweep proves, whatever address it is reached at."""
    return f"ultramarine-{component}.{namespace}.svc"


def server_context(folder: Path, *protocols: str) -> ssl.SSLContext:
    """Return a server's context; each connection gets the certificate that is in `folder` then.

    Raises OSError without a certificate. A renewed certificate that cannot be read is ignored until it can.
    """
    current, seen = _loaded(folder), identity(folder)

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, seen
        try:
            if (now := identity(folder)) != seen:
                current, seen = _loaded(folder), now
        except OSError:
            pass
        connection.context = current

    context = _loaded(folder)
    context.set_alpn_protocols(list(protocols))
    context.sni_callback = renew  # called for each connection, with a server's name or without
    return context


def expires(folder: Path) -> float:
    """Return when the certificate in `folder` ends, in seconds since 1970. Raises OSError if it cannot be read."""
    # Python shows a certificate's dates to the other side of a connection alone, so both sides are here.
    context = ssl.create_default_context(cafile=folder / AUTHORITY)
    context.check_hostname = False
    context.verify_flags |= _NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client := context.wrap_bio(to_client, to_server),
        _loaded(folder).wrap_bio(to_server, to_client, server_side=True),
    )
    for side in sides * 2:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = client.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _loaded(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return context


def identity(folder: Path) -> tuple[int, int]:
    """Return the identity of the certificate file in `folder`, which a renewal changes."""
    # The kubelet swaps a link, so a new Secret shows as another inode.
    status = (folder / CERTIFICATE).stat()
    return status.st_ino, status.st_mtime_ns
