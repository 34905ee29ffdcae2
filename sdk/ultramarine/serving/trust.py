"""Trust in an endpoint's certificate inside a cluster: authorities of the system, platform, endpoint and caller."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import SECRET, Manifest

from ..kube.errors import Forbidden, NotFound
from ..kube.platform import NoPlatform

if TYPE_CHECKING:
    from ..client import Client

ENV_CA = "ULTRAMARINE_CA"  # file with the authorities of endpoints


class CertificateRefused(UltramarineError):
    """The endpoint's certificate is of an unknown authority, for another host, or expired."""

    reason = "CertificateRefused"


def context_for(client: Client, endpoint: Manifest, ca: str) -> ssl.SSLContext:
    """Return TLS settings that trust the system's authorities and those of the endpoint.

    `ca` is a file of the caller. Without it the authorities are those of the platform and of the endpoint's Secret, if
    the user may read them. Raises CertificateRefused if one cannot be read.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # private authorities often lack optional extensions
    for origin, authorities in _authorities(client, endpoint, ca):
        try:
            context.load_verify_locations(cadata=authorities)
        except (ssl.SSLError, ValueError):
            raise CertificateRefused(f"{origin} has no certificate. Put the authority there, as PEM.") from None
    return context


def _authorities(client: Client, endpoint: Manifest, ca: str) -> Iterator[tuple[str, str]]:
    """Yield private authorities, each after the place that it comes from."""
    if file := ca or os.environ.get(ENV_CA, ""):
        try:
            yield file, Path(file).read_text()
        except (OSError, ValueError) as error:
            raise CertificateRefused(f"the authority {file} cannot be read: {error}. Correct ca or {ENV_CA}.") from None
        return
    with suppress(NoPlatform, Forbidden):
        if authority := client.platform.facts.storage_ca:
            yield "storageCA of ConfigMap ultramarine-platform", authority
    secret = str((endpoint["spec"].get("tls") or {}).get("secretName") or "")
    with suppress(NotFound, Forbidden):
        if secret and (content := (client.cluster.get(SECRET, secret).get("data") or {}).get("ca.crt")):
            yield f"ca.crt of Secret {secret}", base64.b64decode(content).decode(errors="replace")


def refused(endpoint: str, url: str, error: Exception) -> CertificateRefused:
    """Return the error that a failed check of a certificate means, with its remedy."""
    words = str(error)
    if "mismatch" in words:
        text = f"its certificate is not for the host of {url}. Issue one with this name"
    elif "expired" in words:
        text = f"the certificate of {url} has expired. Renew it in the Secret of spec.tls.secretName"
    else:
        text = (
            f"the authority of {url} is unknown here. Give its file: client.endpoint({endpoint!r}, ca='ca.crt'),"
            f" or set {ENV_CA}; or put it into the Secret of spec.tls.secretName as ca.crt"
        )
    return CertificateRefused(f"endpoint {endpoint}: {text}.")
