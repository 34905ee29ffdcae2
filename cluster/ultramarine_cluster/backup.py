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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError
from ruamel.yaml import YAML

from .console import step
from .errors import ClusterError
from .target import Target

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Manifest = dict[str, Any]
Key = tuple[str, str]  # kind and name

GROUP = "ultramarine.dev"
RESTORED = f"{GROUP}/restored-from"
SETTINGS = f"{GROUP}/settings"  # on the operator's pods
# The API server or the operator writes these again.
DROPPED = (f"{GROUP}/applied", f"{GROUP}/requested-by", "kubectl.kubernetes.io/last-applied-configuration")
COMPILED = "compiled"  # the folder of what servers made of models
STEADY_SECONDS = 60.0  # for a restored status to stay


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn a failure of kubectl into a ClusterError of the step `name`."""
    try:
        yield
    except subprocess.SubprocessError as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        remedy = "check the context, the namespaces and your rights in them, then run the command again"
        raise ClusterError(f"kubectl: {reason}", remedy, step=name) from error


def kinds(target: Target) -> dict[str, bool]:
    """Return the cluster's kinds of the platform by name, with True for those whose objects run to an end.

    Raises ClusterError if the cluster has none.
    """
    ends = {}
    for item in target.json("get", "customresourcedefinitions")["items"]:
        if (spec := item["spec"])["group"] == GROUP:
            fields = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
            ends[str(spec["names"]["kind"])] = "completionTime" in fields.get("status", {}).get("properties", {})
    if not ends:
        raise ClusterError(f"the cluster has no kind of {GROUP}", "install a release with crds.install=true")
    return dict(sorted(ends.items()))


def in_order(resources: list[Manifest]) -> list[Manifest]:
    """Return the objects in the order of their creation: owners before what they own, and versions before endpoints.

    Raises ClusterError if objects own each other.
    """
    items = {_key(item): item for item in resources}
    versions = [key for key in items if key[0] == "ModelVersion"]
    sorter: TopologicalSorter[Key] = TopologicalSorter()
    for key, item in items.items():
        owner = _owner(item)
        sorter.add(key, *([owner] if owner in items else []), *(versions if key[0] == "OnlineEndpoint" else []))
    try:
        sorter.prepare()
    except CycleError as error:
        names = ", ".join(f"{kind} {name}" for kind, name in error.args[1])
        raise ClusterError(f"objects own each other: {names}", "remove an owner in resources.json") from error
    ordered: list[Manifest] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += [items[key] for key in ready]
        sorter.done(*ready)
    return ordered


@_readable("backup")
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
        resources = [_kept(item) for kind in kinds(target) for item in _listed(target, kind, namespace)]
        _write(folder / "resources.json", resources)
        _write(folder / "secrets.json", _secrets(target, namespace, resources) if secrets else [])
        notes.append(_counted(resources))
    with _storage(target, release, namespace) as (client, bucket), step(f"files below {namespace}/") as notes:
        files, size = _download(client, bucket, f"{namespace}/", folder / "objects")
        notes.append(f"{files} files, {size / 2**20:.0f} MiB")
    made = datetime.now(UTC).isoformat(timespec="seconds")
    _write(about, {"namespace": namespace, "bucket": bucket, "time": made, "files": files, "bytes": size})


@_readable("restore")
def restore(target: Target, release: str, folder: Path, namespace: str) -> None:
    """Restore a backup into a namespace of the release, without replacing any object.

    Raises ClusterError for an incomplete backup or an object or Secret of the same name. At the end it names the
    objects that the API server refused.
    """
    if (about := _read(folder / "backup.json")) is None:
        raise ClusterError(f"{folder} has no complete backup", "run the backup again", step="restore")
    mark = f"{about['namespace']}@{about['time']}"
    old = f"s3://{about['bucket']}/{about['namespace']}/"
    ends = kinds(target)
    resources = to_restore(in_order(_read(folder / "resources.json") or []), ends)
    if missing := sorted({item["kind"] for item in resources} - ends.keys()):
        remedy = "upgrade the release that has the CRDs, then run the restore again"
        raise ClusterError(f"the cluster has no kind {', '.join(missing)}", remedy, step="restore")
    secrets: list[Manifest] = _read(folder / "secrets.json") or []
    present = {_key(item): item for kind in ends for item in _listed(target, kind, namespace)}
    secret_names = [secret["metadata"]["name"] for secret in secrets]
    present |= {_key(item): item for name in secret_names if (item := _optional(target, "secret", name, namespace))}
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
    for kind, group in groupby((*secrets, *moved), key=lambda item: str(item["kind"])):
        items = list(group)
        new = [item for item in items if _key(item) not in present]
        with step(kind) as notes:
            for item in items:
                try:
                    if _key(item) not in present:
                        begun = json.dumps(beginning(item, namespace, mark, uids, over=is_over(item, ends)))
                        made = target.run("create", "-o", "json", "-f", "-", input=begun)
                        uids[_key(item)] = json.loads(made)["metadata"]["uid"]
                except subprocess.CalledProcessError as error:
                    refusals.append(f"{kind} {item['metadata']['name']}: {error.stderr.strip()}")
                # At once: a sweep that has ended deletes trials that have not, seconds after their creation.
                if is_over(item, ends) and _key(item) in uids:
                    _end(target, namespace, item)
            notes.append(f"{len(new)} made")
    if refusals:
        remedy = "correct these objects in resources.json, and run the restore again: it goes on with them"
        raise ClusterError("; ".join(refusals), remedy, step="restore")


def to_restore(ordered: list[Manifest], ends: dict[str, bool]) -> list[Manifest]:
    """Return the objects to restore: all except those of runs that had not ended, which make them again."""
    unfinished = {_key(item) for item in ordered if ends.get(item["kind"]) and not is_over(item, ends)}
    left_out: set[Key] = set()
    for item in ordered:
        if _owner(item) in unfinished | left_out:
            left_out.add(_key(item))
    return [item for item in ordered if _key(item) not in left_out]


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


def is_over(manifest: Manifest, ends: dict[str, bool]) -> bool:
    """True for a run that has ended, whose status is restored so that it does not run again."""
    state = (manifest.get("status") or {}).get("state")
    return ends.get(manifest["kind"], False) and state in ("Succeeded", "Failed", "Cancelled", "Stopped")


def beginning(manifest: Manifest, namespace: str, mark: str, uids: dict[Key, str], *, over: bool) -> Manifest:
    """Return what is created: suspended if it is over, and otherwise from its checkpoint."""
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
    if over:
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
    settings = _settings(target, release)
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


def _settings(target: Target, release: str) -> dict[str, str]:
    """Return the operator's settings of the storage.

    They are in an annotation of its pods; an older release has them as variables.
    """
    if (deployment := _optional(target, "deployment", "ultramarine-operator", release)) is None:
        raise ClusterError(f"no operator in namespace {release}", "name the namespace of the release")
    template = deployment["spec"]["template"]
    if text := (template["metadata"].get("annotations") or {}).get(SETTINGS):
        settings: dict[str, str] = YAML(typ="safe").load(text)["storage"]
        return settings
    (container, *_) = template["spec"]["containers"]
    variables = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    names = {"endpoint": "ENDPOINT", "region": "REGION", "bucket": "BUCKET", "secretName": "SECRET"}
    return {name: variables.get(f"ULTRAMARINE_STORAGE_{suffix}", "") for name, suffix in names.items()}


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
    owners = meta.get("ownerReferences") or []
    owner = next((owner for owner in owners if owner["apiVersion"].startswith(f"{GROUP}/")), None)
    kept = {"name": meta["name"], "labels": labels, "annotations": annotations}
    if owner:
        kept["owner"] = {"kind": owner["kind"], "name": owner["name"]}
    return {key: manifest[key] for key in ("apiVersion", "kind", "spec", "status") if key in manifest} | {
        "metadata": kept
    }


def _secrets(target: Target, namespace: str, resources: list[Manifest]) -> list[Manifest]:
    """Return the Secrets with keys that statuses name, generated or their authors' own."""
    statuses = [item.get("status") or {} for item in resources]
    names = {str(status["keysSecret"]) for status in statuses if status.get("keysSecret")}
    secrets = [target.json("get", "secret", name, "-n", namespace) for name in sorted(names)]
    head = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque"}
    return [{**head, "metadata": {"name": item["metadata"]["name"]}, "data": item["data"]} for item in secrets]


def _optional(target: Target, kind: str, name: str, namespace: str) -> Manifest | None:
    """Return an object; None if it does not exist."""
    text = target.run("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json")
    return json.loads(text) if text.strip() else None


def _key(manifest: Manifest) -> Key:
    return manifest["kind"], manifest["metadata"]["name"]


def _owner(manifest: Manifest) -> Key | None:
    owner = manifest["metadata"].get("owner")
    return (owner["kind"], owner["name"]) if owner else None


def _mark(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("annotations") or {}).get(RESTORED, ""))


def _counted(resources: list[Manifest]) -> str:
    counts = Counter(item["kind"] for item in resources)
    return ", ".join(f"{count} {kind}s" for kind, count in counts.items()) or "none"


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
