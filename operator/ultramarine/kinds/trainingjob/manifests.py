"""The children of a TrainingJob: one Indexed Job, and a ConfigMap for inline source. No I/O here."""

from __future__ import annotations

import re

from ...shared import contract
from ...shared.errors import InvalidSpec
from ...shared.meta import Manifest, child_labels, child_metadata, content_hash
from ...shared.plan import Obj, Platform
from ...shared.pods import CONTAINER_SECURITY, POD_SECURITY, pull_secrets, storage_env
from .schema import TrainingJobSpec

Job = Obj[TrainingJobSpec]

CONTAINER = "trainer"
REFERENCE = re.compile(r"\$\((params|inputs|outputs)\.([^)]*)\)")


def output_prefix(job: Job, platform: Platform) -> str:
    """Where this very job's results go: the uid keeps a later job of the same name apart."""
    return f"s3://{platform.storage_bucket}/{job.namespace}/trainingjobs/{job.name}/{job.uid}/"


def source_digest(job: Job) -> str:
    """SHA-256 over the inline source; of any other kind of source the trainer tells it."""
    return f"sha256:{content_hash(job.spec.source.inline)}" if job.spec.source and job.spec.source.inline else ""


def source_task(job: Job) -> contract.SourceTask | None:
    """What the trainer has to fetch before the command starts, if anything."""
    source = job.spec.source
    if source is None or source.inline:
        return None
    if source.git is not None:
        git = source.git
        return contract.SourceTask(git_url=git.url, git_ref=git.ref, git_path=git.path)
    if source.config_map is not None:
        return contract.SourceTask(config_map=source.config_map.name)
    return contract.SourceTask(uri=source.uri or "", digest=source.digest or "")


def command(job: Job) -> list[str]:
    """The whole command line with its references filled in. Raises InvalidSpec for one that refers to nothing."""
    spec = job.spec
    known = {
        "params": spec.parameters,
        "inputs": {name: f"{contract.INPUTS_DIR}/{name}" for name in spec.inputs},
        "outputs": {name: f"{contract.OUTPUTS_DIR}/{name}" for name in spec.outputs},
    }
    fields = {"params": "parameters", "inputs": "inputs", "outputs": "outputs"}

    def fill(place: str, text: str) -> str:
        def one(match: re.Match[str]) -> str:
            kind, name = match[1], match[2]
            if name not in known[kind]:
                there = ", ".join(sorted(known[kind])) or "none"
                raise InvalidSpec(
                    f"{place} refers to {match[0]}, but spec.{fields[kind]} has no {name!r} (it has: {there}); "
                    "apply it again under another name, with the parameter or without the reference"
                )
            return known[kind][name]

        return REFERENCE.sub(one, text)

    return [
        *(fill(f"spec.command[{i}]", text) for i, text in enumerate(spec.command)),
        *(fill(f"spec.args[{i}]", text) for i, text in enumerate(spec.args)),
    ]


def source_config_map(job: Job) -> Manifest | None:
    """The inline source as a ConfigMap, or nothing without any."""
    if job.spec.source is None or not job.spec.source.inline:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job.manifest, f"{job.name}-source"),
        "data": dict(job.spec.source.inline),
    }


def training_job(job: Job, platform: Platform) -> Manifest:
    """The Job that trains. Kubernetes retries, suspends and ends it, so it goes on while the operator is down."""
    spec = job.spec
    job_spec: Manifest = {
        "suspend": spec.suspend,
        "backoffLimit": spec.backoff_limit,
        "completions": 1,
        "parallelism": 1,
        "completionMode": "Indexed",  # so that a rank survives a pod restart when there are several
        "podReplacementPolicy": "Failed",  # never two pods of one rank at once
        "podFailurePolicy": {
            "rules": [
                # An eviction is not the command's fault: it does not count against backoffLimit.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [contract.EXIT_DO_NOT_RETRY],
                    },
                },
            ]
        },
        "template": {
            "metadata": {"labels": child_labels("TrainingJob", job.name)},
            "spec": pod_spec(job, platform),
        },
    }
    if spec.active_deadline_seconds is not None:
        job_spec["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(job.manifest, job.name),
        "spec": job_spec,
    }


def pod_spec(job: Job, platform: Platform) -> Manifest:
    """The pod: our entry point around the user's command, locked down, with scratch space where it may write."""
    spec = job.spec
    task = contract.TrainingTask(
        inputs={name: source.uri for name, source in spec.inputs.items()},
        outputs={name: (out.format or "auto") if out.register_as else "" for name, out in spec.outputs.items()},
        output_prefix=output_prefix(job, platform),
        source=source_task(job),
    )
    volumes: list[Manifest] = [{"name": name, "emptyDir": {}} for name in ("workspace", "inputs", "outputs", "tmp")]
    mounts: list[Manifest] = [
        {"name": "workspace", "mountPath": contract.WORK_DIR},
        {"name": "inputs", "mountPath": contract.INPUTS_DIR},
        {"name": "outputs", "mountPath": contract.OUTPUTS_DIR},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if (code := _source_volume(job)) is not None:
        volumes.append({"name": "source", "configMap": code})
        mounts.append({"name": "source", "mountPath": contract.SOURCE_DIR, "readOnly": True})
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [
            {
                "name": CONTAINER,
                "image": spec.image or platform.trainer_image,
                "imagePullPolicy": platform.image_pull_policy,
                "command": ["ultramarine-trainer"],
                "args": command(job),
                "env": [
                    # Ours first: a $(NAME) in a value is filled in from the variables before it, so nothing of theirs
                    # gets into the task. Names that start with ULTRAMARINE_ are refused at admission: none collides.
                    {"name": contract.ENV_TASK, "value": task.to_json()},
                    *storage_env(platform),
                    *(variable.model_dump(by_alias=True, exclude_none=True) for variable in spec.env),
                ],
                "envFrom": [{"secretRef": {"name": platform.storage_secret}}],
                "resources": spec.resources.model_dump(by_alias=True, exclude_defaults=True),
                "securityContext": CONTAINER_SECURITY,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _source_volume(job: Job) -> Manifest | None:
    """The ConfigMap that the code is mounted from, if it comes from one."""
    source = job.spec.source
    if source is not None and source.inline:
        return {"name": f"{job.name}-source"}
    if source is not None and source.config_map is not None:
        # Optional: a pod that hangs for a missing mount tells nobody, while the trainer names what is missing.
        return {"name": source.config_map.name, "optional": True}
    return None


def with_changes(live: Manifest, wanted: Manifest) -> Manifest | None:
    """A Job that runs already, with what may change of it (suspend, limits, labels); nothing if none of that differs.

    The rest stays as it was made, even by an older operator: Kubernetes forbids to change a Job's template, and a new
    release of the platform must not disturb a training.
    """
    mutable = ("suspend", "backoffLimit", "activeDeadlineSeconds")
    old, new = live["spec"], wanted["spec"]
    labels = live["metadata"].get("labels") or {}
    labelled = all(labels.get(name) == value for name, value in wanted["metadata"]["labels"].items())
    if labelled and all(old.get(field) == new.get(field) for field in mutable):
        return None
    kept = {field: old[field] for field in new if field not in mutable and field in old}
    return {**wanted, "spec": kept | {field: new[field] for field in mutable if field in new}}
