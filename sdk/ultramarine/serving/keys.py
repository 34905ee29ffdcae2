"""Keys of endpoints: read from the cluster, or kept by the user who made the endpoint.

RBAC knows no patterns of names, so a data scientist may create an endpoint's Secret and not read it. The keys that
a client makes for a new endpoint are therefore kept in the user's configuration folder, readable by the user alone.
Their Secret belongs to the endpoint and is deleted with it; a Secret that the user made stays.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import ANNOTATION_KEYS, KEYS_OF_AUTHOR, ONLINE_ENDPOINT, SECRET, Manifest

from ..kube.client import Cluster
from ..kube.errors import Exists, Forbidden, NotFound

if TYPE_CHECKING:
    from .route import Answer

ENV_KEY = "ULTRAMARINE_KEY"
NAMES = ("primary", "secondary")
_DELETION_SECONDS = 3.0  # for which the Secret of a deleted endpoint may still exist


def read(cluster: Cluster, secret: str) -> dict[str, str]:
    """Return the keys of a Secret. Raises NotFound or Forbidden."""
    data = cluster.get(SECRET, secret).get("data") or {}
    return {name: base64.b64decode(data[name]).decode().strip() for name in NAMES if data.get(name)}


def write_with_keys(
    cluster: Cluster, manifest: Manifest, write: Callable[[Manifest], Manifest], note: Callable[[str], None]
) -> Manifest:
    """Write an OnlineEndpoint by `write`; a new one gets keys that its author can read, unless it has others."""
    name = str(manifest["metadata"]["name"])
    secret = f"{name}-keys"
    if not _takes_keys(manifest) or _exists(cluster, name):
        return write(manifest)
    if not cluster.may("create", SECRET):
        note(f"You may not create Secret {secret}; the operator makes the keys.")
        return write(manifest)
    _make_folder()
    annotations = {**(manifest["metadata"].get("annotations") or {}), ANNOTATION_KEYS: KEYS_OF_AUTHOR}
    made = write({**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}})
    if _create(cluster, secret, made):
        path = f"{file()}".replace(f"{Path.home()}/", "~/", 1)
        note(f"Made two keys in Secret {secret}; you keep them in {path}.")
    else:
        note(
            f"Secret {secret} exists already, so its keys open endpoint {name}. If you do not have them, ask who made"
            " it, or let an administrator delete it before you deploy again."
        )
    return made


def _takes_keys(manifest: Manifest) -> bool:
    """Return True if an endpoint checks keys of a Secret that it does not name."""
    spec = manifest.get("spec") or {}
    return spec.get("authMode", "key") == "key" and not spec.get("keysSecretRef")


def _exists(cluster: Cluster, endpoint: str) -> bool:
    try:
        return bool(cluster.get(ONLINE_ENDPOINT, endpoint))
    except NotFound:
        return False


def _create(cluster: Cluster, secret: str, endpoint: Manifest) -> bool:
    """Create a Secret of two new keys that belongs to an endpoint, and keep them; False if the user's own exists.

    The Secret of a former endpoint of this name gets a moment to be deleted.
    """
    meta = endpoint["metadata"]
    owner = {name: endpoint[name] for name in ("apiVersion", "kind")} | {name: meta[name] for name in ("name", "uid")}
    keys = {name: secrets.token_urlsafe(32) for name in NAMES}
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret, "ownerReferences": [owner]},
        "stringData": keys,
    }
    end = time.monotonic() + _DELETION_SECONDS
    while True:
        try:
            cluster.create(SECRET, manifest)
        except Exists:
            if time.monotonic() > end or is_own(cluster, secret):
                return False
            time.sleep(0.3)
        else:
            keep(cluster, secret, keys)
            return True


def is_own(cluster: Cluster, secret: str) -> bool:
    """Return True if a Secret is known to belong to no endpoint, so that it stays if an endpoint is deleted."""
    try:
        return not cluster.get(SECRET, secret)["metadata"].get("ownerReferences")
    except (NotFound, Forbidden):
        return False


def left_by(cluster: Cluster, endpoint: Manifest) -> str:
    """Return a sentence about the Secret of keys that stays when an endpoint is deleted; empty if none does.

    Keys that go with the endpoint are no longer kept on this machine.
    """
    spec, name = endpoint["spec"], str(endpoint["metadata"]["name"])
    secret = str((spec.get("keysSecretRef") or {}).get("name") or f"{name}-keys")
    if spec.get("authMode", "key") != "key":
        return ""
    if spec.get("keysSecretRef") or is_own(cluster, secret):
        return (
            f"Secret {secret}, which has your own keys, stays, and the next endpoint of this name takes it."
            f" If nothing else uses it: kubectl -n {cluster.namespace} delete secret {secret}"
        )
    _forget(cluster, secret)
    return ""


def rotate(cluster: Cluster, secret: str, keys: dict[str, str]) -> dict[str, str]:
    """Make a new primary key; the former one becomes the secondary key, and the former secondary one ends."""
    renewed = {"primary": secrets.token_urlsafe(32), "secondary": keys.get("primary") or secrets.token_urlsafe(32)}
    data = {name: base64.b64encode(key.encode()).decode() for name, key in renewed.items()}
    cluster.patch(SECRET, secret, {"data": data})
    keep(cluster, secret, renewed)
    return renewed


def answered(key: str, fresh: Callable[[], dict[str, str]], send: Callable[[str], Answer]) -> tuple[str, Answer]:
    """Return the answer to a key, and the key; if it is refused, those of the `fresh` keys.

    A new primary key opens an endpoint after a while, and the secondary one all the time.
    """
    answer = send(key)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        for other in fresh().values():
            if other != key and (second := send(other)).status != HTTPStatus.UNAUTHORIZED:
                return other, second
    return key, answer


def keep(cluster: Cluster, secret: str, keys: dict[str, str]) -> None:
    """Keep the keys of a Secret in the user's configuration folder."""
    _make_folder()
    _save(_kept() | {_place(cluster, secret): keys})


def _forget(cluster: Cluster, secret: str) -> None:
    all_kept = _kept()
    if all_kept.pop(_place(cluster, secret), None):
        _save(all_kept)


def _save(all_kept: dict[str, dict[str, str]]) -> None:
    path = file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(all_kept, stream, indent=1)
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
