"""The Jobs of the room: one that compiles a ModelVersion, and one that deletes an artifact. No I/O here."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.model import Compile, ModelSpec, ModelVersionSpec, version_name
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest, content_hash
from ultramarine_contract.version_records import CompileTask, DeleteTask

from ...shared.plan import Obj, Platform
from ...shared.podspec import (
    locked_container,
    platform_job,
    platform_pod,
    scratch,
    storage_env,
    tls_mounts,
    with_disk,
)

Version = Obj[ModelVersionSpec]
Model = Obj[ModelSpec]

STORE = "store"  # the container that has the last word
DEADLINE_SECONDS = 1800  # from the Job's start, whatever its pods wait for: then the native model is served
RETRIES = 2
# Little is asked for, so that compiling takes what others leave; without requests and limits a quota admits no pod.
RESOURCES: Manifest = {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
KEPT_SECONDS = 600  # after its end, for a look at the log
TMP = {"name": "tmp", "mountPath": "/tmp"}


def compile_job_name(version: Version) -> str:
    """The name of the Job that checks and compiles the version; another one tries again what may run code now."""
    # With the longest name and number of a version 63 characters, the most that a Job's name may have.
    return f"{version.name}-compile{'-code' if version.spec.allow_code_execution else ''}"


def compile_task(version: Version, compile: Compile, platform: Platform) -> CompileTask:
    """Return the task of its pod. Equal models with equal settings have one place for the result."""
    spec = version.spec
    signature = spec.signature.model_dump(by_alias=True) if spec.signature else None
    settings = [spec.format.name, spec.allow_code_execution, signature, compile.model_dump(mode="json")]
    place = f"{spec.digest.removeprefix('sha256:')[:16]}-{content_hash(settings)[:8]}"
    return CompileTask(
        model=spec.model,
        version=spec.version,
        uri=spec.uri,
        digest=spec.digest,
        format=spec.format.name,
        prefix=f"s3://{platform.storage_bucket}/{version.namespace}/compiled/{place}/",
        to=compile.to,
        rtol=compile.parity.rtol,
        label_agreement=compile.parity.label_agreement,
        allow_code_execution=spec.allow_code_execution,
        signature=signature,
    )


def compile_job(version: Version, compile: Compile, platform: Platform) -> Manifest:
    """Return the Job whose pod fetches the model, compiles it, and stores the outcome."""
    return _job(
        version, compile_job_name(version), _compiling_pod(compile_task(version, compile, platform).to_json(), platform)
    )


def delete_job_name(model: Model, number: str, uri: str) -> str:
    """The name of the Job that deletes what a version had stored; a version made again may have stored it elsewhere."""
    return f"{version_name(model.name, number)}-delete-{content_hash(uri)[:4]}"


def delete_job(model: Model, number: str, uri: str, platform: Platform) -> Manifest:
    """The Job whose pod deletes the artifact of a version that is gone."""
    container = {
        **_container("delete", platform),
        "env": [{"name": contract.ENV_TASK, "value": DeleteTask(uri).to_json()}, *storage_env(platform)],
        **_keys(platform),
        "volumeMounts": [TMP, *tls_mounts(platform)],
    }
    return _job(model, delete_job_name(model, number, uri), _pod(platform, containers=[container], volumes=("tmp",)))


def _job(owner: Obj[Any], name: str, pod: Manifest) -> Manifest:
    return platform_job(
        owner.manifest, name, pod, retries=RETRIES, deadline_seconds=DEADLINE_SECONDS, kept_seconds=KEPT_SECONDS
    )


def _compiling_pod(task: str, platform: Platform) -> Manifest:
    """Three containers, one after another: the one that loads the model, whose code may be anybody's, has no keys."""
    model = {"name": "model", "mountPath": contract.MODEL_DIR}
    compiled = {"name": "compiled", "mountPath": contract.COMPILED_DIR}
    variables, trust = [{"name": contract.ENV_TASK, "value": task}], tls_mounts(platform)

    def container(name: str, mounts: list[Manifest], **more: object) -> Manifest:
        return {**_container(name, platform), "volumeMounts": mounts, **more}

    with_storage = {"env": [*variables, *storage_env(platform)], **_keys(platform)}
    return _pod(
        platform,
        initContainers=[
            container("fetch", [model, TMP, *trust], **with_storage),
            container("compile", [{**model, "readOnly": True}, compiled, TMP], env=variables),
        ],
        containers=[container(STORE, [{**compiled, "readOnly": True}, TMP, *trust], **with_storage)],
        volumes=("model", "compiled", "tmp"),
    )


def _container(command: str, platform: Platform) -> Manifest:
    resources = with_disk(RESOURCES, platform.serving_disk)
    run = ["ultramarine-server", command]
    return locked_container(platform, command, platform.server_image, resources, command=run)


def _keys(platform: Platform) -> Manifest:
    return {"envFrom": [{"secretRef": {"name": platform.storage_secret}}]}


def _pod(platform: Platform, *, volumes: tuple[str, ...], **containers: list[Manifest]) -> Manifest:
    folders = [scratch(name, with_disk(RESOURCES, platform.serving_disk)) for name in volumes]
    return platform_pod(platform, platform.pods.serving, **containers, volumes=folders)
