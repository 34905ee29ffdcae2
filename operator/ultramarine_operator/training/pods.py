"""Pods of a TrainingJob and workers of a Sweep: their code, data, command line and MLflow.

The object may be of either kind; its spec here is that of a TrainingJob.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence

from msgspec import structs
from ultramarine.resources.base import MlflowStatus
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.pods import Source
from ultramarine.resources.trainingjob import Input, TrainingJobSpec
from ultramarine_contract import common as contract
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Manifest, child_metadata, content_hash
from ultramarine_contract.references import REFERENCE, filled
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.training_records import TrainingContext, TrainingTask

from ..runs.queues import is_queued
from ..shared import usage
from ..shared.plan import Obj, Platform
from ..shared.pods import TRAINER
from ..shared.podspec import (
    DISK,
    POD_SECURITY,
    ca_mounts,
    locked_container,
    outside_env,
    placed,
    pull_secrets,
    scratch,
    storage_env,
    template_volumes,
    tls_mounts,
    tls_volumes,
    with_disk,
)

Job = Obj[TrainingJobSpec]

RUN_ID = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)
_SLIP = re.compile(r"(?<!\$)\$[({]+ *(input|output|param|parameter)s?\.([A-Za-z0-9_.-]+) *[)}]+")


def source_digest(job: Job) -> str:
    """Return the SHA-256 over the inline source; the trainer reports that of any other source."""
    return f"sha256:{content_hash(job.spec.source.inline)}" if job.spec.source and job.spec.source.inline else ""


def mlflow(former: MlflowStatus | None, platform: Platform, run_ids: Sequence[str]) -> MlflowStatus | None:
    """Return the run in MLflow, by the newest id that pods have reported; the server is the platform's."""
    newest = next((run_id for run_id in reversed(run_ids) if RUN_ID.fullmatch(run_id)), "")
    if not platform.mlflow_uri or not newest or (former and former.run_id == newest):
        return former
    return MlflowStatus(run_id=newest, uri=f"{platform.mlflow_uri}/#/runs/{newest}")


def mlflow_env(platform: Platform) -> list[Manifest]:
    """Return the namespace's account at the MLflow server; a server without accounts has no such Secret."""
    return [
        {
            "name": f"{contract.MLFLOW_PREFIX}{key}",
            "valueFrom": {"secretKeyRef": {"name": platform.mlflow_secret, "key": key, "optional": True}},
        }
        for key in contract.MLFLOW_ACCOUNT
        if platform.mlflow_secret
    ]


def source_task(job: Job) -> SourceTask | None:
    """Return the source that the trainer has to fetch before the command starts, if any."""
    source = job.spec.source
    return None if source is None or source.inline else task_of(source)


def task_of(source: Source) -> SourceTask:
    """Return the task to fetch a source that is not inline."""
    if source.git is not None:
        git = source.git
        secret = git.secret_ref.name if git.secret_ref else ""
        return SourceTask(git_url=git.url, git_ref=git.ref, git_path=git.path, git_secret=secret)
    if source.config_map is not None:
        return SourceTask(config_map=source.config_map.name)
    return SourceTask(uri=source.uri or "", digest=source.digest or "")


def command_line(spec: TrainingJobSpec, params: Mapping[str, str], where: str, params_field: str) -> list[str]:
    """Return the command line with its references filled in. Raises InvalidSpec for one without a target.

    `where` is the field that holds the spec, and `params_field` the field with the parameters.
    """
    values = {
        "params": params,
        "inputs": {name: _input_place(name, source) for name, source in spec.inputs.items()},
        "outputs": {name: f"{contract.OUTPUTS_DIR}/{name}" for name in spec.outputs},
    }
    fields = {"params": params_field, "inputs": f"{where}.inputs", "outputs": f"{where}.outputs"}
    return [
        *filled(spec.command, f"{where}.command", values, fields),
        *filled(spec.args, f"{where}.args", values, fields),
    ]


def check_spelling(spec: TrainingJobSpec, where: str) -> None:
    """Raise InvalidSpec for a reference in a wrong spelling or that of another system, which nothing would fill in.

    Only for an object that has not begun: the author of a command that runs may have meant it.
    """
    for field, texts in (("command", spec.command), ("args", spec.args)):
        for i, text in enumerate(texts):
            for slip in _SLIP.finditer(text):
                if not REFERENCE.match(slip[0]):  # brackets behind a reference are the text's own
                    kind = "params" if slip[1].startswith("param") else f"{slip[1]}s"
                    message = f"{where}.{field}[{i}]: {slip[0]} would reach the command as it is"
                    raise InvalidSpec(f"{message}; apply it again under another name, with $({kind}.{slip[2]})")


def _input_place(name: str, source: Input) -> str:
    streamed = source.mode == "Stream"
    return f"http://127.0.0.1:{contract.STREAM_PORT}/{name}/" if streamed else f"{contract.INPUTS_DIR}/{name}"


def source_config_map(job: Job, name: str) -> Manifest | None:
    """Return the inline source as a ConfigMap of that name; None without any."""
    if job.spec.source is None or not job.spec.source.inline:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job.manifest, name),
        "data": dict(job.spec.source.inline),
    }


def downloads(spec: TrainingJobSpec, pins: Mapping[str, DatasetPin]) -> dict[str, str]:
    """Return the inputs that are fetched before the command starts, name to URI; `pins` are versions of datasets."""
    uris = {name: source.uri for name, source in spec.inputs.items() if source.uri and source.mode == "Download"}
    return uris | {name: pin.uri for name, pin in pins.items()}


def digests(spec: TrainingJobSpec, pins: Mapping[str, DatasetPin]) -> dict[str, str]:
    """Return the digests that the content of inputs must have, by name."""
    given = {name: source.digest for name, source in spec.inputs.items() if source.digest}
    return given | {name: pin.digest for name, pin in pins.items()}


def streams(spec: TrainingJobSpec) -> dict[str, str]:
    """Return the inputs that are served to the command, name to URI."""
    return {name: source.uri for name, source in spec.inputs.items() if source.uri and source.mode == "Stream"}


def from_mlflow(spec: TrainingJobSpec) -> tuple[str, ...]:
    """Return the outputs that get a model which the command logs by mlflow."""
    return tuple(name for name, output in spec.outputs.items() if output.from_mlflow)


def pod_spec(
    job: Job,
    platform: Platform,
    task: TrainingTask,
    context: TrainingContext,
    *,
    source: str,
    args: list[str],
    env: tuple[Manifest, ...] = (),
    memory: str = "",
    more: Manifest | None = None,
) -> Manifest:
    """Return the pod: the trainer around the user's command, locked down, with scratch space for its files.

    `source` is the ConfigMap of inline code. `env` are further variables of the platform. `memory` is a limit above
    that of the spec. `more` are further fields of the pod.
    """
    spec, template = job.spec, job.spec.pod_template
    folders = {
        "workspace": contract.WORK_DIR,
        "inputs": contract.INPUTS_DIR,
        "outputs": contract.OUTPUTS_DIR,
        **({"checkpoints": contract.CHECKPOINTS_DIR} if task.checkpoint else {}),
        **({"environment": contract.ENVIRONMENT_DIR} if task.environment else {}),
        "tmp": "/tmp",
    }
    asked = spec.resources.model_dump(by_alias=True, exclude_defaults=True)
    bounded = with_disk(asked, platform.training_disk)
    # A queue of Kueue refuses a resource that it does not cover.
    resources = asked if is_queued(job.manifest) else bounded
    volumes: list[Manifest] = [scratch(name, bounded) for name in folders]
    mounts: list[Manifest] = [{"name": name, "mountPath": path} for name, path in folders.items()]
    volumes += tls_volumes(platform)
    mounts += tls_mounts(platform)
    own_volumes, own_mounts = template_volumes(template)
    volumes += own_volumes
    mounts += own_mounts
    account = mlflow_env(platform) if context.mlflow else []
    if (code := _source_volume(job, source, bounded)) is not None:
        volumes.append(code)
        mounts.append({"name": "source", "mountPath": contract.SOURCE_DIR, "readOnly": True})
    if context.progress:
        volumes.append(token_volume())
        mounts.append(TOKEN_MOUNT)
    if memory:
        limits, requests = resources["limits"], resources.get("requests", {})
        if requests.get("memory") == limits["memory"]:  # reserved in full, so it stays
            resources["requests"] = {**requests, "memory": memory}
        resources = {**resources, "limits": {**limits, "memory": memory}}
    reserved = dict(zip(("cpu", "gpu", "memoryGib"), usage.requests(resources), strict=True))
    context = structs.replace(context, reserved={name: amount for name, amount in reserved.items() if amount})
    before: list[Manifest] = []
    if task.source and task.source.git_secret:
        before = [_source_container(platform, task.source, resources)]
        volumes.append(credentials_volume(task.source.git_secret))
    return {
        "restartPolicy": "Never",
        # The token is for a command that asks for an identity of its own.
        "automountServiceAccountToken": bool(template.service_account_name),
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **(more or {}),
        **placed(platform.pods.training, template),
        **({"initContainers": before} if before else {}),
        "containers": [
            locked_container(
                platform,
                TRAINER,
                context.image,
                resources,
                command=["ultramarine-trainer"],
                **({"args": args} if args else {}),
                env=[
                    # The platform's first: $(NAME) in a value takes the variables before it, so the author's cannot get
                    # into the task. Names that start with ULTRAMARINE_ are refused at admission: none collides.
                    {"name": contract.ENV_TASK, "value": task.to_json()},
                    *storage_env(platform, {variable.name for variable in spec.env}),
                    {"name": contract.ENV_POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": contract.ENV_CONTEXT, "value": plain(context.to_json())},
                    *account,
                    *env,
                    *(variable.model_dump(by_alias=True, exclude_none=True) for variable in spec.env),
                ],
                envFrom=[
                    *(source.model_dump(by_alias=True, exclude_defaults=True) for source in spec.env_from),
                    {"secretRef": {"name": platform.storage_secret}},  # last: of two with one key, the later one wins
                ],
                volumeMounts=mounts,
            )
        ],
        "volumes": volumes,
    }


TOKEN_MOUNT: Manifest = {
    "name": "token",
    "mountPath": posixpath.dirname(contract.PROGRESS_TOKEN),
    "readOnly": True,
}


def plain(document: str) -> str:
    """A JSON document as a variable's value: every $ is escaped, or Kubernetes would fill in names in its texts."""
    return document.replace("$", "\\u0024")


def token_volume() -> Manifest:
    """Return the volume of a token that serves only to report to the operator about this pod."""
    name = posixpath.basename(contract.PROGRESS_TOKEN)
    token = {"audience": contract.PROGRESS_AUDIENCE, "expirationSeconds": 3600, "path": name}
    return {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}


def _source_volume(job: Job, name: str, resources: Manifest) -> Manifest | None:
    """Return the volume with the code: a ConfigMap, or the folder of the init container that fetches it."""
    source = job.spec.source
    if source is not None and source.inline:
        return {"name": "source", "configMap": {"name": name}}
    if source is not None and source.config_map is not None:
        # Optional: a pod that hangs for a missing mount reports nothing, while the trainer names what is missing.
        return {"name": "source", "configMap": {"name": source.config_map.name, "optional": True}}
    if source is not None and source.git is not None and source.git.secret_ref is not None:
        return scratch("source", resources)
    return None


def credentials_volume(secret: str) -> Manifest:
    """Return the volume with a private repository's credentials."""
    # Optional for the same reason.
    return {"name": "git-credentials", "secret": {"secretName": secret, "optional": True, "defaultMode": 0o440}}


def _source_container(platform: Platform, source: SourceTask, resources: Manifest) -> Manifest:
    """Return the init container with the credentials: of the platform's image, whatever image the command has."""
    return locked_container(
        platform,
        "source",
        platform.trainer_image,
        without_devices(resources),
        command=["ultramarine-source"],
        env=[
            {"name": contract.ENV_TASK, "value": TrainingTask(source=source).to_json()},
            *outside_env(platform),
        ],
        volumeMounts=[
            {"name": "source", "mountPath": contract.SOURCE_DIR},
            {"name": "git-credentials", "mountPath": contract.CREDENTIALS_DIR, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            *ca_mounts(platform),
        ],
    )


def fetching_container(
    source: SourceTask, folder: Manifest, resources: Manifest, platform: Platform, image: str = ""
) -> Manifest:
    """Return the init container that fetches a source into a folder, which is a mount; by default of the trainer image.

    It has the storage keys only for an archive in the object storage, and credentials only for a private repository.
    """
    keys = {"envFrom": [{"secretRef": {"name": platform.storage_secret}}]} if source.uri else {}
    credentials = {"name": "git-credentials", "mountPath": contract.CREDENTIALS_DIR, "readOnly": True}
    return locked_container(
        platform,
        "source",
        image or platform.trainer_image,
        resources,
        command=["ultramarine-source", "--to", folder["mountPath"]],
        env=[
            {"name": contract.ENV_TASK, "value": plain(TrainingTask(source=source).to_json())},
            *storage_env(platform),
        ],
        volumeMounts=[
            folder,
            {"name": "tmp", "mountPath": "/tmp"},
            *([credentials] if source.git_secret else []),
            *tls_mounts(platform),
        ],
        **keys,
    )


def without_devices(resources: Manifest) -> Manifest:
    """Return the resources of an init container: those of the main container, so no quota counts more, without GPUs."""
    own = {
        kind: {name: amount for name, amount in amounts.items() if name in ("cpu", "memory", DISK)}
        for kind, amounts in resources.items()
    }
    return {kind: amounts for kind, amounts in own.items() if amounts}
