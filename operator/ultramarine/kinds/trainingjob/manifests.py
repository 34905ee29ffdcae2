"""The children of a TrainingJob: an Indexed Job, a Service for several nodes, a ConfigMap for code. No I/O here."""

from __future__ import annotations

import json

from ...shared import contract
from ...shared.meta import LABEL_KIND, LABEL_NAME, Manifest, child_labels, child_metadata
from ...shared.plan import Obj, Platform
from ...shared.pods import TRAINER
from ...shared.training_records import CheckpointTask, GangTask, TrainingContext, TrainingTask
from .. import training, trials
from .schema import TrainingJobSpec

Job = Obj[TrainingJobSpec]

GPU = "nvidia.com/gpu"
QUEUE_LABELS = "kueue.x-k8s.io/"
LABEL_QUEUE = f"{QUEUE_LABELS}queue-name"
MAX_PARAMETER, MAX_PARAMETER_NAME = 500, 250  # characters that every release of MLflow takes
MAX_TOLD = 64 * 1024  # of all parameters together: Linux gives one variable twice as much


def output_prefix(job: Job, platform: Platform) -> str:
    """Where this very job's results go: the uid keeps a later job of the same name apart."""
    return f"s3://{platform.storage_bucket}/{job.namespace}/trainingjobs/{job.name}/{job.uid}/"


def command(job: Job) -> list[str]:
    """The whole command line with its references filled in. Raises InvalidSpec for one that refers to nothing."""
    return training.command_line(job.spec, job.spec.parameters, "spec", "spec.parameters")


def source_config_map(job: Job) -> Manifest | None:
    """The inline source as a ConfigMap, or nothing without any."""
    return training.source_config_map(job, _source_name(job))


def _source_name(job: Job) -> str:
    return f"{job.name}-source"


def is_queued(job: Job) -> bool:
    """Whether Kueue decides when the Job runs: then its `suspend` is Kueue's, and never ours."""
    return bool(queue(job))


def queue(job: Job) -> str:
    """The Kueue queue that the job is in, if any."""
    return str((job.manifest["metadata"].get("labels") or {}).get(LABEL_QUEUE, ""))


def ranks_service(job: Job) -> Manifest | None:
    """The headless Service by which the pods of several nodes find node 0, ready or not."""
    if job.spec.nodes == 1:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job.manifest, _service_name(job)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_KIND: "TrainingJob", LABEL_NAME: job.name},
            "ports": [{"name": "gang", "port": contract.GANG_PORT, "protocol": "TCP"}],
        },
    }


def _service_name(job: Job) -> str:
    return f"nodes-{job.name}"  # a Service's name must begin with a letter, and a job's need not


def training_job(job: Job, platform: Platform, memory: str = "", active_seconds: int = 0) -> Manifest:
    """The Job that trains. Kubernetes retries, suspends and ends it, so it goes on while the operator is down.

    `memory` is a limit that is more than what the spec says, `active_seconds` how much of its deadline is used up.
    """
    spec = job.spec
    job_spec: Manifest = {
        "suspend": spec.suspend or is_queued(job),
        "backoffLimit": spec.backoff_limit,
        "completions": spec.nodes,
        "parallelism": spec.nodes,
        "completionMode": "Indexed",  # so that a node keeps its place when its pod is replaced
        "podReplacementPolicy": "Failed",  # never two pods of one node at once
        "podFailurePolicy": {"rules": _failure_rules(job)},
        "template": {
            "metadata": {"labels": child_labels("TrainingJob", job.name)},
            "spec": pod_spec(job, platform, memory),
        },
    }
    if spec.nodes > 1:
        # Node 0 ends with success when all have ended and its outputs are stored; an elastic job may lack others then.
        job_spec["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    if spec.active_deadline_seconds is not None:
        job_spec["activeDeadlineSeconds"] = max(spec.active_deadline_seconds - active_seconds, 1)
    metadata = child_metadata(job.manifest, job.name)
    labels = job.manifest["metadata"].get("labels") or {}
    metadata["labels"] |= {name: value for name, value in labels.items() if name.startswith(QUEUE_LABELS)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job_spec}


def _failure_rules(job: Job) -> list[Manifest]:
    rules: list[Manifest] = [
        # An eviction is not the command's fault: it does not count against backoffLimit.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _on_exit("FailJob", "In", [contract.EXIT_DO_NOT_RETRY]),
    ]
    if job.spec.pod_failure_policy is not None:
        rules += [
            _on_exit(rule.action, rule.on_exit_codes.operator, sorted(rule.on_exit_codes.values))
            for rule in job.spec.pod_failure_policy.rules
        ]
    return rules


def _on_exit(action: str, operator: str, codes: list[int]) -> Manifest:
    return {"action": action, "onExitCodes": {"containerName": TRAINER, "operator": operator, "values": codes}}


def pod_spec(job: Job, platform: Platform, memory: str = "") -> Manifest:
    """The pod, with what a gang and checkpoints ask of it."""
    spec, trial = job.spec, trials.task_of(job.manifest)
    models = {name for name, out in spec.outputs.items() if out.register_as or (trial and trial.register == name)}
    task = TrainingTask(
        inputs=training.downloads(spec),
        streams=training.streams(spec),
        outputs={name: (out.format or "auto") if name in models else "" for name, out in spec.outputs.items()},
        output_prefix=output_prefix(job, platform),
        source=training.source_task(job),
        checkpoint=checkpoint_task(job),
        gang=gang_task(job),
    )
    more: Manifest = {"subdomain": _service_name(job)} if spec.nodes > 1 else {}
    if task.checkpoint:
        more["terminationGracePeriodSeconds"] = task.checkpoint.grace_seconds
    told = context(job, platform)
    code, args, env = _source_name(job), command(job), trials.trial_env(job.manifest)
    return training.pod_spec(job, platform, task, told, source=code, args=args, env=env, memory=memory, more=more)


def checkpoint_task(job: Job) -> CheckpointTask | None:
    """What the trainer does about checkpoints, if the job has any."""
    wanted = job.spec.checkpoint
    if wanted is None or not wanted.enabled:
        return None
    return CheckpointTask(
        resume=wanted.resume == "Auto",
        resume_from=wanted.resume_from or "",
        grace_seconds=wanted.grace_period_seconds,
    )


def gang_task(job: Job) -> GangTask | None:
    """How the pods work together; nothing for a plain command in one pod."""
    spec = job.spec
    if spec.framework is None and spec.nodes == 1:
        return None
    gpus = spec.resources.limits.get(GPU, 0)
    each = int(gpus) if spec.framework in ("torch", "mpi") and str(gpus).isdigit() else 1
    return GangTask(
        framework=spec.framework or "none",
        processes=spec.processes_per_node or max(each, 1),
        nodes=spec.nodes,
        min_nodes=spec.elastic.min_nodes if spec.elastic else 0,
        # The name that Kubernetes gives a pod of an Indexed Job in its subdomain.
        leader=f"{job.name}-0.{_service_name(job)}" if spec.nodes > 1 else "",
    )


def context(job: Job, platform: Platform) -> TrainingContext:
    """Who and what the attempt is, and whom it tells; of parameters as much as a variable has room for."""
    parameters: dict[str, str] = {}
    room = MAX_TOLD
    for name, value in sorted(job.spec.parameters.items()):
        room -= len(json.dumps({name: value[:MAX_PARAMETER]}))
        if len(name) <= MAX_PARAMETER_NAME and room >= 0:
            parameters[name] = value[:MAX_PARAMETER]
    return TrainingContext(
        job=f"{job.namespace}/{job.name}",
        uid=job.uid,
        requested_by=training.requested_by(job, platform),
        image=job.spec.image or platform.trainer_image,
        source_digest=training.source_digest(job),
        parameters=parameters,
        progress=f"{platform.progress_url}/progress/{job.namespace}/{job.name}" if platform.progress_url else "",
        # A trial is recorded by the coordinator of its sweep.
        mlflow="" if trials.task_of(job.manifest) else platform.mlflow_uri,
    )


def with_changes(live: Manifest, wanted: Manifest) -> Manifest | None:
    """A Job that runs already, with what may change of it (suspend, limits, labels); nothing if none of that differs.

    The rest stays as it was made, even by an older operator: Kubernetes forbids to change a Job's template, and a new
    release of the platform must not disturb a training. Where a queue holds the Job, so does its `suspend`.
    """
    queued = LABEL_QUEUE in wanted["metadata"]["labels"]
    old, new = live["spec"], wanted["spec"]
    mutable = {"backoffLimit", "activeDeadlineSeconds", *(() if queued else ("suspend",))}
    labels = live["metadata"].get("labels") or {}
    labelled = all(labels.get(name) == value for name, value in wanted["metadata"]["labels"].items())
    if labelled and all(old.get(field) == new.get(field) for field in mutable):
        return None
    metadata = dict(wanted["metadata"])
    if queued:  # what is kept of `suspend` must not undo what Kueue has written since
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    spec = {field: new[field] if field in mutable else old[field] for field in new if field in mutable or field in old}
    return {**wanted, "metadata": metadata, "spec": spec}
