"""The Job that compiles a ModelVersion. No I/O here."""

from __future__ import annotations

from ultramarine.resources.model import Compile, ModelVersionSpec
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest, content_hash
from ultramarine_contract.version_records import CompileTask

from ...runs.serverjobs import TMP, server_container, server_job, server_pod, storage_keys
from ...shared.plan import Obj, Platform
from ...shared.podspec import storage_env, tls_mounts

Version = Obj[ModelVersionSpec]

STORE = "store"  # the container that has the last word


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
    return server_job(
        version, compile_job_name(version), _compiling_pod(compile_task(version, compile, platform).to_json(), platform)
    )


def _compiling_pod(task: str, platform: Platform) -> Manifest:
    """Three containers, one after another: the one that loads the model, whose code may be anybody's, has no keys."""
    model = {"name": "model", "mountPath": contract.MODEL_DIR}
    compiled = {"name": "compiled", "mountPath": contract.COMPILED_DIR}
    variables, trust = [{"name": contract.ENV_TASK, "value": task}], tls_mounts(platform)

    def container(name: str, mounts: list[Manifest], **more: object) -> Manifest:
        return {**server_container(name, platform), "volumeMounts": mounts, **more}

    with_storage = {"env": [*variables, *storage_env(platform)], **storage_keys(platform)}
    return server_pod(
        platform,
        initContainers=[
            container("fetch", [model, TMP, *trust], **with_storage),
            container("compile", [{**model, "readOnly": True}, compiled, TMP], env=variables),
        ],
        containers=[container(STORE, [{**compiled, "readOnly": True}, TMP, *trust], **with_storage)],
        volumes=("model", "compiled", "tmp"),
    )
