"""The child of a ModelVersion that is compiled: one Job. No I/O here."""

from __future__ import annotations

from ...shared import contract
from ...shared.meta import Manifest, child_labels, child_metadata, content_hash
from ...shared.plan import Obj, Platform
from ...shared.pods import CONTAINER_SECURITY, POD_SECURITY, pull_secrets, storage_env
from .schema import Compile, ModelVersionSpec

Version = Obj[ModelVersionSpec]

STORE = "store"  # the container that has the last word
DEADLINE_SECONDS = 1800  # from the Job's start, whatever its pods wait for: then the native model is served
RETRIES = 2
KEPT_SECONDS = 600  # after its end, for people who look at the log


def compile_job_name(version: Version) -> str:
    """The name of the Job that compiles the version."""
    return f"{version.name}-compile"


def compile_task(version: Version, wanted: Compile, platform: Platform) -> contract.CompileTask:
    """What its pod has to do. Equal models with equal settings have one place for the result."""
    spec = version.spec
    signature = spec.signature.model_dump(by_alias=True) if spec.signature else None
    settings = [spec.format.name, spec.allow_code_execution, signature, wanted.model_dump(mode="json")]
    place = f"{spec.digest.removeprefix('sha256:')[:16]}-{content_hash(settings)[:8]}"
    return contract.CompileTask(
        model=spec.model,
        version=spec.version,
        uri=spec.uri,
        digest=spec.digest,
        format=spec.format.name,
        prefix=f"s3://{platform.storage_bucket}/{version.namespace}/compiled/{place}/",
        to=wanted.to,
        rtol=wanted.parity.rtol,
        label_agreement=wanted.parity.label_agreement,
        allow_code_execution=spec.allow_code_execution,
        signature=signature,
    )


def compile_job(version: Version, wanted: Compile, platform: Platform) -> Manifest:
    """The Job whose pod fetches the model, compiles it, and stores what came of it."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(version.manifest, compile_job_name(version)),
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            # An eviction is not the model's fault: it does not count against backoffLimit.
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {"labels": child_labels("ModelVersion", version.name)},
                "spec": _pod_spec(compile_task(version, wanted, platform).to_json(), platform),
            },
        },
    }


def _pod_spec(task: str, platform: Platform) -> Manifest:
    """Three containers, one after another: the one that loads the model, whose code may be anybody's, has no keys."""
    tmp = {"name": "tmp", "mountPath": "/tmp"}
    model = {"name": "model", "mountPath": contract.MODEL_DIR}
    compiled = {"name": "compiled", "mountPath": contract.COMPILED_DIR}
    keys = {"envFrom": [{"secretRef": {"name": platform.storage_secret}}]}
    told = [{"name": contract.ENV_TASK, "value": task}]
    common: Manifest = {
        "image": platform.server_image,
        "imagePullPolicy": platform.image_pull_policy,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }

    def container(name: str, mounts: list[Manifest], **more: object) -> Manifest:
        return {"name": name, **common, "command": ["ultramarine-server", name], "volumeMounts": mounts, **more}

    with_storage = [*told, *storage_env(platform)]
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "initContainers": [
            container("fetch", [model, tmp], env=with_storage, **keys),
            container("compile", [{**model, "readOnly": True}, compiled, tmp], env=told),
        ],
        "containers": [container(STORE, [{**compiled, "readOnly": True}, tmp], env=with_storage, **keys)],
        "volumes": [{"name": name, "emptyDir": {}} for name in ("model", "compiled", "tmp")],
    }
