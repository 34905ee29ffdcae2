"""Back a namespace up into a folder, and restore it into another namespace or cluster.

The folder has `resources.json` (objects with their statuses), `secrets.json` (keys of endpoints), `objects/` (all the
namespace's files), and `backup.json`, which is written last. Both commands may be killed and run again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError
from ruamel.yaml import YAML

from .console import step
from .errors import ClusterError
from .paths import REPOSITORY
from .target import Target

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Manifest = dict[str, Any]

GROUP = "ultramarine.dev"
RESTORED = f"{GROUP}/restored-from"
# The API server or the operator writes these again.
DROPPED = (f"{GROUP}/applied", f"{GROUP}/requested-by", "kubectl.kubernetes.io/last-applied-configuration")
COMPILED = "compiled"  # the folder of what servers made of models
STEADY_SECONDS = 60.0  # for a restored status to stay


@cache
def kinds() -> dict[str, bool]:
    """Return the platform's kinds by name, with True for those whose objects run to an end."""
    ends = {}
    for path in sorted((REPOSITORY / "crds").glob("*.yaml")):
        spec = YAML(typ="safe").load(path)["spec"]
        status = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        ends[str(spec["names"]["kind"])] = "completionTime" in status
    return ends


def owners_first(resources: list[Manifest]) -> list[str]:
    """Return the kinds in an order in which an object's owner comes before the object."""
    owners = {(item["kind"], item["metadata"]["owner"]["kind"]) for item in resources if "owner" in item["metadata"]}

    def depth(kind: str) -> int:
        return max((depth(owner) + 1 for owned, owner in owners if owned == kind != owner), default=0)

    return sorted(kinds(), key=lambda kind: (depth(kind), kind))


def save(target: Target, release: str, namespace: str, folder: Path, *, secrets: bool = True) -> None:
    """Write the namespace's objects and all that it has stored into the folder, which only its owner may read.

    Raises ClusterError if the folder has the backup of something else, or the storage refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    about = folder / "backup.json"
    if (before := _read(about)) and before["namespace"] != namespace:
        remedy = "name another folder"
        raise ClusterError(f"{folder} has the backup of namespace {before['namespace']}", remedy, step="backup")
    about.unlink(missing_ok=True)  # what the folder has is no longer complete
    with step(f"objects of {namespace}") as notes:
        resources = [_kept(item) for kind in kinds() for item in _listed(target, kind, namespace)]
        _write(folder / "resources.json", resources)
        _write(folder / "secrets.json", _secrets(target, namespace, resources) if secrets else [])
        notes.append(_counted(resources))
    with _storage(target, release, namespace) as (client, bucket), step(f"files below {namespace}/") as notes:
        files, size = _download(client, bucket, f"{namespace}/", folder / "objects")
        notes.append(f"{files} files, {size / 2**20:.0f} MiB")
    made = datetime.now(UTC).isoformat(timespec="seconds")
    _write(about, {"namespace": namespace, "bucket": bucket, "time": made, "files": files, "bytes": size})


def restore(target: Target, release: str, folder: Path, namespace: str) -> None:
    """Restore a backup into a namespace of the release, without replacing any object.

    Raises ClusterError for an incomplete backup or an object or Secret of the same name. At the end it names the
    objects that the API server refused.
    """
    if (about := _read(folder / "backup.json")) is None:
        raise ClusterError(f"{folder} has no complete backup", "run the backup again", step="restore")
    mark = f"{about['namespace']}@{about['time']}"
    old = f"s3://{about['bucket']}/{about['namespace']}/"
    resources = to_restore(_read(folder / "resources.json") or [])
    secrets: list[Manifest] = _read(folder / "secrets.json") or []
    present = {_key(item): item for kind in kinds() for item in _listed(target, kind, namespace)}
    present |= {_key(item): item for item in map(partial(_secret, target, namespace), secrets) if item}
    strangers = [
        key for item in (*resources, *secrets) if (key := _key(item)) in present and _mark(present[key]) != mark
    ]
    if strangers:
        names = ", ".join(sorted(f"{kind} {name}" for kind, name in strangers)[:5])
        remedy = "restore into an empty namespace, or delete them"
        raise ClusterError(f"{namespace} has {names} already", remedy, step="restore")
    with _storage(target, release, namespace) as (client, bucket), step(f"files below {namespace}/") as notes:
        count = _upload(client, bucket, f"{namespace}/", folder / "objects", datetime.fromisoformat(about["time"]))
        notes.append(f"{count} of {about['files']} files were missing")
    moved = [rewritten(item, old, f"s3://{bucket}/{namespace}/") for item in resources]
    uids = {key: str(item["metadata"]["uid"]) for key, item in present.items()}
    refusals: list[str] = []
    for kind in ("Secret", *owners_first(resources)):
        items = [item for item in (*secrets, *moved) if item["kind"] == kind]
        new = [item for item in items if _key(item) not in present]
        with step(kind) as notes:
            for item in items:
                try:
                    if _key(item) not in present:
                        begun = json.dumps(beginning(item, namespace, mark, uids))
                        made = target.run("create", "-o", "json", "-f", "-", input=begun)
                        uids[_key(item)] = json.loads(made)["metadata"]["uid"]
                except subprocess.CalledProcessError as error:
                    refusals.append(f"{kind} {item['metadata']['name']}: {error.stderr.strip()}")
                # At once: a sweep that has ended deletes trials that have not, seconds after their creation.
                if is_over(item) and _key(item) in uids:
                    _end(target, namespace, item)
            notes.append(f"{len(new)} made")
    if refusals:
        remedy = "correct these objects in resources.json, and run the restore again: it goes on with them"
        raise ClusterError("; ".join(refusals), remedy, step="restore")


def to_restore(resources: list[Manifest]) -> list[Manifest]:
    """Return the objects to restore: all but the trials of sweeps that had not ended, which begin again."""
    unfinished = {item["metadata"]["name"] for item in resources if item["kind"] == "Sweep" and not is_over(item)}

    def goes(item: Manifest) -> bool:
        owner = item["metadata"].get("owner") or {}
        return owner.get("kind") == "Sweep" and owner.get("name") in unfinished

    return [item for item in resources if not goes(item)]


def rewritten(manifest: Manifest, old: str, new: str) -> Manifest:
    """Return a manifest whose URIs lead to the new place; inline code stays as it was written."""

    def moved(value: Any, name: str) -> Any:
        if name == "inline":
            return value
        if isinstance(value, dict):
            return {key: moved(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner, "") for inner in value]
        return value.replace(old, new) if isinstance(value, str) else value

    return {key: moved(value, key) for key, value in manifest.items()}


def is_over(manifest: Manifest) -> bool:
    """True for a job or a sweep that has ended, whose status is restored so that it does not run again."""
    state = (manifest.get("status") or {}).get("state")
    return kinds().get(manifest["kind"], False) and state in ("Succeeded", "Failed", "Stopped")


def beginning(manifest: Manifest, namespace: str, mark: str, uids: dict[tuple[str, str], str]) -> Manifest:
    """Return what is created: suspended if it has ended, and from its checkpoint if it has not."""
    metadata, spec = dict(manifest["metadata"]), dict(manifest.get("spec") or {})
    metadata["annotations"] = {**metadata.get("annotations", {}), RESTORED: mark}
    if owner := metadata.pop("owner", None):
        reference = {"apiVersion": manifest["apiVersion"], "kind": owner["kind"], "name": owner["name"]}
        uid = uids.get((owner["kind"], owner["name"]), "")
        metadata["ownerReferences"] = (
            [{**reference, "uid": uid, "controller": True, "blockOwnerDeletion": True}] if uid else []
        )
    status = manifest.get("status") or {}
    checkpoint = (status.get("lastCheckpoint") or {}).get("uri")
    if is_over(manifest):
        spec["suspend"] = True
    elif checkpoint and (spec.get("checkpoint") or {"resume": "Never"}).get("resume", "Auto") == "Auto":
        spec["checkpoint"] = {**spec["checkpoint"], "resumeFrom": checkpoint}
    made: Manifest = {name: manifest[name] for name in ("apiVersion", "kind", "type", "data") if name in manifest}
    made["metadata"] = {**metadata, "namespace": namespace}
    return made | ({"spec": spec} if "spec" in manifest else {})


def _end(target: Target, namespace: str, manifest: Manifest) -> None:
    """Write the status of a run that has ended, until the operator takes it for one, and let its spec be as it was."""
    kind, name = f"{manifest['kind']}.{GROUP}", manifest["metadata"]["name"]
    status = {**manifest["status"], "observedGeneration": 1}
    words = (kind, name, "-n", namespace, "--type=merge", "-p")
    deadline = time.monotonic() + STEADY_SECONDS
    while True:
        try:
            target.run("patch", "--subresource=status", *words, json.dumps({"status": status}))
            time.sleep(0.3)
            seen = target.json("get", kind, name, "-n", namespace)
        except subprocess.CalledProcessError as error:
            if "NotFound" in error.stderr:
                return  # its ttlSecondsAfterFinished was over
            raise ClusterError(
                f"{kind} {name}: {error.stderr.strip()}", "run the restore again", step="restore"
            ) from error
        if (seen.get("status") or {}).get("state") == status["state"]:
            break
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{kind} {name} does not stay {status['state']}", "read the operator's log", step="restore"
            )
    if not manifest["spec"].get("suspend") and seen["spec"].get("suspend"):
        with suppress(subprocess.CalledProcessError):  # gone meanwhile
            target.run("patch", *words, json.dumps({"spec": {"suspend": None}}))


@contextmanager
def _storage(target: Target, release: str, namespace: str) -> Iterator[tuple[S3Client, str]]:
    """Yield a client with the namespace's own keys, and the bucket's name, by the settings of the release."""
    config = target.json("get", "configmap", "ultramarine-operator", "-n", release)["data"]["settings.yaml"]
    settings: dict[str, str] = YAML(typ="safe").load(config)["storage"]
    endpoint, region, bucket = settings["endpoint"], settings["region"] or "us-east-1", settings["bucket"]
    try:
        keys = target.secret(namespace, settings["secretName"])
    except subprocess.CalledProcessError as error:
        remedy = f"name a namespace of the release in {release} (its value `namespaces`), or another RELEASE"
        raise ClusterError(f"{namespace} has no Secret {settings['secretName']}", remedy) from error

    def client(url: str, authority: str | None = None) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=url,
            verify=authority,
            region_name=region,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )

    inside = re.fullmatch(r"(https?)://([^.]+)\.([^.]+)\.svc:(\d+)", endpoint)
    try:
        if inside is None:
            yield client(endpoint), bucket
        elif inside[1] == "https" and inside[2] == "ultramarine-storage":
            with target.reach(inside[3], inside[2], int(inside[4]), tls=True) as url, NamedTemporaryFile("w") as file:
                file.write(target.secret(inside[3], "ultramarine-tls-storage")["ca.crt"])
                file.flush()
                yield client(url, file.name), bucket
        else:
            with target.reach(inside[3], inside[2], int(inside[4])) as url:
                yield client(url), bucket
    except (ClientError, BotoCoreError, S3UploadFailedError) as error:
        remedy = f"see the keys in Secret {settings['secretName']} of {namespace}"
        raise ClusterError(f"the storage refuses: {error}", remedy) from error


def _download(client: S3Client, bucket: str, prefix: str, folder: Path) -> tuple[int, int]:
    """Make the folder what lies below a prefix; return the number of files and their bytes.

    A file of the same size and time is there already; one without an object goes.
    """
    kept: set[Path] = set()
    size = 0
    for item in _items(client, bucket, prefix):
        name = PurePosixPath(item["Key"].removeprefix(prefix))
        if ".." in name.parts or name.is_absolute():
            raise ClusterError(f"the key {item['Key']} leads out of the folder", "delete or rename that object")
        if name.parts[0] == COMPILED:
            continue  # its verdicts name URIs, and it is made again
        file, stamp = folder / name, item["LastModified"].timestamp()
        size += item["Size"]
        kept.add(file)
        if not file.is_file() or (file.stat().st_size, file.stat().st_mtime) != (item["Size"], stamp):
            file.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, item["Key"], str(file))
            os.utime(file, (stamp, stamp))
    for file in folder.rglob("*"):
        if file.is_file() and file not in kept:
            file.unlink()
    return len(kept), size


def _upload(client: S3Client, bucket: str, prefix: str, folder: Path, since: datetime) -> int:
    """Store the folder's files, except those stored in that size `since` the backup; return their number."""
    items = {item["Key"]: item for item in _items(client, bucket, prefix) if item["LastModified"] >= since}
    count = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = f"{prefix}{file.relative_to(folder).as_posix()}"
        if key not in items or items[key]["Size"] != file.stat().st_size:
            client.upload_file(str(file), bucket, key)
            count += 1
    return count


def _items(client: S3Client, bucket: str, prefix: str) -> Iterator[Any]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from (item for item in page.get("Contents", []) if not item["Key"].endswith("/"))


def _listed(target: Target, kind: str, namespace: str) -> list[Manifest]:
    items: list[Manifest] = target.json("get", f"{kind}.{GROUP}", "-n", namespace)["items"]
    return [item for item in items if not item["metadata"].get("deletionTimestamp")]


def _kept(manifest: Manifest) -> Manifest:
    """Return the part of an object that a backup has: its status, and nothing else that the cluster has given it."""
    meta = manifest["metadata"]
    annotations = {name: text for name, text in (meta.get("annotations") or {}).items() if name not in DROPPED}
    labels = {name: text for name, text in (meta.get("labels") or {}).items() if name not in DROPPED}
    owner = next((owner for owner in meta.get("ownerReferences") or [] if owner["kind"] in kinds()), None)
    kept = {"name": meta["name"], "labels": labels, "annotations": annotations}
    if owner:
        kept["owner"] = {"kind": owner["kind"], "name": owner["name"]}
    return {key: manifest[key] for key in ("apiVersion", "kind", "spec", "status") if key in manifest} | {
        "metadata": kept
    }


def _secrets(target: Target, namespace: str, resources: list[Manifest]) -> list[Manifest]:
    """The Secrets with the keys of endpoints, generated or their authors' own."""
    statuses = [item.get("status") or {} for item in resources if item["kind"] == "OnlineEndpoint"]
    names = {str(status["keysSecret"]) for status in statuses if status.get("keysSecret")}
    secrets = [target.json("get", "secret", name, "-n", namespace) for name in sorted(names)]
    kinds = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque"}
    return [{**kinds, "metadata": {"name": item["metadata"]["name"]}, "data": item["data"]} for item in secrets]


def _secret(target: Target, namespace: str, secret: Manifest) -> Manifest | None:
    """The Secret of that name in the namespace, if there is one."""
    text = target.run("get", "secret", secret["metadata"]["name"], "-n", namespace, "--ignore-not-found", "-o", "json")
    return json.loads(text) if text.strip() else None


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _mark(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("annotations") or {}).get(RESTORED, ""))


def _counted(resources: list[Manifest]) -> str:
    counts = {kind: sum(item["kind"] == kind for item in resources) for kind in kinds()}
    return ", ".join(f"{count} {kind}s" for kind, count in counts.items() if count) or "none"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ClusterError(f"{path} is not valid JSON: {error}", "run the backup again") from error


def _write(path: Path, document: Any) -> None:
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(document, indent=1))
    part.rename(path)
