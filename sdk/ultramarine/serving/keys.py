"""Keys of endpoints: read from the cluster, or kept by the user who made the endpoint.

RBAC knows no patterns of names, so a data scientist may create an endpoint's Secret and not read it. The keys that
`ultramarine endpoints deploy` makes are therefore kept in the user's configuration folder, readable by the user alone.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import SECRET, Manifest

from ..kube.client import Cluster
from ..kube.errors import Exists

ENV_KEY = "ULTRAMARINE_KEY"
NAMES = ("primary", "secondary")


def read(cluster: Cluster, secret: str) -> dict[str, str]:
    """Return the keys of a Secret. Raises NotFound or Forbidden."""
    data = cluster.get(SECRET, secret).get("data") or {}
    return {name: base64.b64decode(data[name]).decode().strip() for name in NAMES if data.get(name)}


def create(cluster: Cluster, secret: str) -> bool:
    """Create a Secret with two new keys, and keep them; False if the Secret exists."""
    _make_folder()
    keys = {name: secrets.token_urlsafe(32) for name in NAMES}
    manifest: Manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "stringData": keys}
    try:
        cluster.create(SECRET, manifest)
    except Exists:
        return False
    keep(cluster, secret, keys)
    return True


def rotate(cluster: Cluster, secret: str, keys: dict[str, str]) -> dict[str, str]:
    """Make a new primary key; the former one becomes the secondary key, and the former secondary one ends."""
    renewed = {"primary": secrets.token_urlsafe(32), "secondary": keys.get("primary") or secrets.token_urlsafe(32)}
    data = {name: base64.b64encode(key.encode()).decode() for name, key in renewed.items()}
    cluster.patch(SECRET, secret, {"data": data})
    keep(cluster, secret, renewed)
    return renewed


def keep(cluster: Cluster, secret: str, keys: dict[str, str]) -> None:
    """Keep the keys of a Secret in the user's configuration folder."""
    kept = _kept() | {_place(cluster, secret): keys}
    _make_folder()
    path = file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(kept, stream, indent=1)
    temporary.replace(path)


def kept(cluster: Cluster, secret: str) -> dict[str, str]:
    """Return the keys that this user keeps for a Secret; empty if there are none."""
    return _kept().get(_place(cluster, secret), {})


def file() -> Path:
    """Return the file of kept keys."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "ultramarine" / "keys.json"


def _make_folder() -> None:
    """Make the folder of kept keys. Raises UltramarineError if it cannot be written."""
    folder = file().parent
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(folder, os.W_OK):
        raise UltramarineError(f"{folder} cannot be written, where keys are kept. Set XDG_CONFIG_HOME to a folder.")


def _place(cluster: Cluster, secret: str) -> str:
    return f"{cluster.access.server} {cluster.namespace}/{secret}"


def _kept() -> dict[str, dict[str, str]]:
    """Read the file. Raises UltramarineError if it is damaged, since the next write would lose its keys."""
    try:
        content = json.loads(file().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UltramarineError(f"{file()} cannot be read: {error}. Repair it, or move it away.") from None
    return content if isinstance(content, dict) else {}
