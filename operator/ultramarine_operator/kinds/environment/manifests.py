"""The Jobs of an Environment: one that builds it, and one that deletes its archive. No I/O here."""

from __future__ import annotations

import posixpath

from ultramarine.resources.environment import EnvironmentSpec
from ultramarine.resources.pods import Source
from ultramarine_contract import common as contract
from ultramarine_contract.environment_records import BuildTask
from ultramarine_contract.meta import Manifest, child_metadata

from ...shared.environments import lines_of
from ...shared.plan import Obj, Platform
from ...shared.podspec import (
    locked_container,
    outside_env,
    platform_job,
    platform_pod,
    scratch,
    storage_env,
    tls_mounts,
    with_disk,
)
from ...training import pods as training
from ...training.pods import fetching_container

Environment = Obj[EnvironmentSpec]

SOURCE, TOOLS, BUILD, STORE, DELETE = "source", "tools", "build", "store", "delete"  # containers
DEADLINE_SECONDS = 3600  # from the Job's start, whatever its pod waits for
KEPT_SECONDS = 7200  # after its end: a failed Job stays until the next attempt
TOOLS_DIR = "/mnt/tools"
REQUIREMENTS_FILE = "/mnt/requirements/requirements.txt"
INDEX_DIR = "/mnt/index"  # credentials for the package index
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
TMP = {"name": "tmp", "mountPath": "/tmp"}


def prefix(environment: Environment, platform: Platform) -> str:
    """Return the folder of what is built; its uid keeps a later Environment of the same name apart."""
    name = f"environments/{environment.name}/{environment.uid}"
    return f"s3://{platform.storage_bucket}/{environment.namespace}/{name}/"


def build_job_name(environment: Environment, attempt: int) -> str:
    """Return the name of the Job of an attempt, which counts from 1."""
    return f"{environment.name}-build-{attempt}"


def delete_job_name(environment: Environment) -> str:
    """Return the name of the Job that deletes the archive."""
    return f"{environment.name}-delete"


def build_task(environment: Environment, platform: Platform) -> BuildTask:
    """Return the task of the building pod. Raises InvalidSpec for wrong requirements inline."""
    python = environment.spec.python
    lines: list[str] = list(python.requirements or [])
    path = ""
    if (file := python.requirements_file) is not None:
        if file.source.inline is not None:
            lines = lines_of(file.source.inline, file.path)
        else:
            path = file.path
    return BuildTask(
        prefix=prefix(environment, platform),
        requirements=tuple(lines),
        path=path,
        python=python.version,
        max_bytes=platform.environments.max_bytes,
    )


def build_job(environment: Environment, attempt: int, platform: Platform) -> Manifest:
    """Return the Job of an attempt. Raises InvalidSpec as `build_task` does."""
    return _job(environment, build_job_name(environment, attempt), _building_pod(environment, platform), platform)


def authorities(environment: Environment, platform: Platform) -> Manifest | None:
    """Return the ConfigMap with the authorities of the package index, for the builds alone; None without any."""
    if not (pem := platform.environments.authorities):
        return None
    metadata = child_metadata(environment.manifest, authorities_name(environment))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {contract.CA_FILE: pem}}


def authorities_name(environment: Environment) -> str:
    """Return the name of the ConfigMap with the authorities of the package index."""
    return f"{environment.name}-index-ca"


def delete_job(environment: Environment, platform: Platform) -> Manifest:
    """Return the Job whose pod deletes all that was stored below the prefix."""
    task = BuildTask(prefix=prefix(environment, platform)).to_json()
    container = _storing(DELETE, task, [TMP], platform)
    return _job(environment, delete_job_name(environment), {"containers": [container], "volumes": ["tmp"]}, platform)


def _job(environment: Environment, name: str, pod: Manifest, platform: Platform) -> Manifest:
    disk = _resources(platform)
    volumes = [scratch(volume, disk) if isinstance(volume, str) else volume for volume in pod["volumes"]]
    spec = platform_pod(platform, platform.pods.training, **{**pod, "volumes": volumes})
    return platform_job(
        environment.manifest,
        name,
        spec,
        retries=0,  # the operator makes the next attempt: a failure is final, or the pause is longer each time
        deadline_seconds=DEADLINE_SECONDS,
        kept_seconds=KEPT_SECONDS,
    )


def _building_pod(environment: Environment, platform: Platform) -> Manifest:
    """Return containers and volumes of the building pod.

    The container that runs code of packages has the network and no storage keys; the next container stores the files.
    """
    spec, task = environment.spec, training.plain(build_task(environment, platform).to_json())
    before: list[Manifest] = []
    volumes: list[Manifest | str] = ["environment", "tmp", *_index_volumes(environment, platform)]
    folder: Manifest = {"name": "environment", "mountPath": contract.ENVIRONMENT_DIR}
    mounts = [folder, TMP, *_index_mounts(platform)]
    if (selected := spec.python.requirements_from) is not None:
        items = [{"key": selected.config_map.key, "path": posixpath.basename(REQUIREMENTS_FILE)}]
        # Optional: a pod that hangs for a missing mount reports nothing, while the builder names what is missing.
        config_map = {"name": selected.config_map.name, "items": items, "optional": True}
        volumes.append({"name": "requirements", "configMap": config_map})
        mounts.append({"name": "requirements", "mountPath": posixpath.dirname(REQUIREMENTS_FILE), "readOnly": True})
    if (file := spec.python.requirements_file) is not None and file.source.inline is None:
        mounts.append({"name": "source", "mountPath": contract.SOURCE_DIR, "readOnly": True})
        volumes += _source_volumes(file.source)
        if file.source.config_map is None:
            place = {"name": "source", "mountPath": contract.SOURCE_DIR}
            before.append(fetching_container(training.task_of(file.source), place, _resources(platform), platform))
    command = ["ultramarine-environment", BUILD]
    if spec.image:
        tools: Manifest = {"name": "tools", "mountPath": TOOLS_DIR}
        volumes.append("tools")
        copy = {"command": ["ultramarine-environment", TOOLS, TOOLS_DIR], "volumeMounts": [tools, TMP]}
        before.append(locked_container(platform, TOOLS, platform.trainer_image, _resources(platform), **copy))
        mounts.append({**tools, "readOnly": True})
        command = ["python3", f"{TOOLS_DIR}/ultramarine_environment", BUILD]
    build = locked_container(
        platform,
        BUILD,
        spec.image or platform.trainer_image,
        _resources(platform),
        command=command,
        env=[{"name": contract.ENV_TASK, "value": task}, *_index_env(platform)],
        volumeMounts=mounts,
        **_index_secret(platform),
    )
    return {
        "initContainers": [*before, build],
        "containers": [_storing(STORE, task, [{**folder, "readOnly": True}, TMP], platform)],
        "volumes": volumes,
    }


def _resources(platform: Platform) -> Manifest:
    return with_disk(platform.environments.resources, platform.training_disk)


def _storing(name: str, task: str, mounts: list[Manifest], platform: Platform) -> Manifest:
    """Return a container of the trainer image with the storage keys."""
    return locked_container(
        platform,
        name,
        platform.trainer_image,
        _resources(platform),
        command=["ultramarine-environment", name],
        env=[{"name": contract.ENV_TASK, "value": task}, *storage_env(platform)],
        envFrom=[{"secretRef": {"name": platform.storage_secret}}],
        volumeMounts=[*mounts, *tls_mounts(platform)],
    )


def _index_env(platform: Platform) -> list[Manifest]:
    """Return uv's variables for the package index, with the authorities that signed its certificate."""
    settings = platform.environments
    variables = {"UV_DEFAULT_INDEX": settings.index_url, "UV_INDEX": " ".join(settings.extra_index_urls)}
    if settings.secret:
        variables["NETRC"] = f"{INDEX_DIR}/netrc"
    if settings.ca or settings.authorities:
        variables |= dict.fromkeys(CERTIFICATES, f"{contract.CA_DIR}/{contract.CA_FILE}")
    own = [{"name": name, "value": value} for name, value in variables.items() if value]
    return [*outside_env(platform, variables), *own]


def _index_secret(platform: Platform) -> Manifest:
    name = platform.environments.secret
    return {"envFrom": [{"secretRef": {"name": name, "optional": True}}]} if name else {}


def _index_volumes(environment: Environment, platform: Platform) -> list[Manifest]:
    settings = platform.environments
    secret: Manifest = {"secretName": settings.secret, "optional": True, "defaultMode": 0o440}
    source = {"configMap": {"name": authorities_name(environment)}} if settings.authorities else settings.ca
    ca = [{"name": "index-ca", **{kind: {**what, "optional": True} for kind, what in source.items()}}]
    return [*([{"name": "index", "secret": secret}] if settings.secret else []), *(ca if source else [])]


def _index_mounts(platform: Platform) -> list[Manifest]:
    settings = platform.environments
    ca = "index-ca" if settings.ca or settings.authorities else "ca" if platform.pods.ca else ""
    mounts = {"index": INDEX_DIR if settings.secret else "", ca: contract.CA_DIR if ca else ""}
    return [{"name": name, "mountPath": path, "readOnly": True} for name, path in mounts.items() if path]


def _source_volumes(source: Source) -> list[Manifest | str]:
    if source.config_map is not None:
        return [{"name": "source", "configMap": {"name": source.config_map.name, "optional": True}}]
    if source.git is not None and source.git.secret_ref is not None:
        return ["source", training.credentials_volume(source.git.secret_ref.name)]
    return ["source"]
