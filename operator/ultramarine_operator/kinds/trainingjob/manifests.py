"""The children of a TrainingJob: an Indexed Job, a Service for several nodes, a ConfigMap for code. No I/O here."""

from __future__ import annotations

import json

from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract import common as contract
from ultramarine_contract.meta import (
    DATASET,
    DATASET_VERSION,
    LABEL_KIND,
    LABEL_NAME,
    Manifest,
    child_labels,
    child_metadata,
)
from ultramarine_contract.training_records import CheckpointTask, GangTask, TrainingContext, TrainingTask

from ...runs import queues
from ...shared.plan import Obj, Platform
from ...shared.pods import TRAINER
from ...training import pods as training
from ...training import trials
from ...training.datasets import pins_of
from ...training.environment import archive_of, image_of
from ...training.steps import cache_task_of

Job = Obj[TrainingJobSpec]

GPU = "nvidia.com/gpu"
FAILURES = range(1, 256)  # the exit codes of a command that failed
MAX_PARAMETER, MAX_PARAMETER_NAME = 500, 250  # characters that every release of MLflow takes
MAX_PARAMETERS = 64 * 1024  # characters of all parameters together: Linux gives one variable twice as much


def output_prefix(job: Job, platform: Platform) -> str:
    """Return the folder of this job's results; its uid keeps a later job of the same name apart."""
    return f"s3://{platform.storage_bucket}/{job.namespace}/trainingjobs/{job.name}/{job.uid}/"


def command(job: Job) -> list[str]:
    """Return the command line with its references filled in. Raises InvalidSpec for one without a target."""
    return training.command_line(job.spec, job.spec.parameters, "spec", "spec.parameters")


def source_config_map(job: Job) -> Manifest | None:
    """Return the inline source as a ConfigMap; None without any."""
    return training.source_config_map(job, _source_name(job))


def _source_name(job: Job) -> str:
    return f"{job.name}-source"


def ranks_service(job: Job) -> Manifest | None:
    """Return the headless Service by which the pods of several nodes find node 0, ready or not."""
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
    """Return the Job that trains. Kubernetes retries, suspends and ends it, also while the operator is down.

    `memory` is a limit above that of the spec, `active_seconds` the used part of its deadline.
    """
    spec = job.spec
    job_spec: Manifest = {
        "suspend": spec.suspend or queues.is_queued(job.manifest),
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
    metadata = queues.labelled(child_metadata(job.manifest, job.name), job.manifest)
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


def worth_retrying(job: Job) -> tuple[int, ...]:
    """Return the exit codes for which the author asks for another attempt by name."""
    policy = job.spec.pod_failure_policy
    if policy is None:
        return ()
    open_codes, worth = set(FAILURES), set[int]()
    for rule in policy.rules:
        named = open_codes.intersection(rule.on_exit_codes.values)
        fitting = named if rule.on_exit_codes.operator == "In" else open_codes - named
        open_codes -= fitting  # the first rule that fits is taken
        if rule.action != "FailJob":
            worth |= fitting
    return tuple(sorted(worth))


def pod_spec(job: Job, platform: Platform, memory: str = "") -> Manifest:
    """Return the pod, with the fields that a gang and checkpoints need."""
    spec, trial, pins = job.spec, trials.task_of(job.manifest), pins_of(job)
    formats = {name: (out.format or contract.AUTO) if out.register_as else "" for name, out in spec.outputs.items()}
    if trial and trial.register in formats:
        formats[trial.register] = trial.format
    task = TrainingTask(
        inputs=training.downloads(spec, pins),
        digests=training.digests(spec, pins),
        streams=training.streams(spec),
        outputs=formats,
        output_prefix=output_prefix(job, platform),
        source=training.source_task(job),
        checkpoint=checkpoint_task(job),
        gang=gang_task(job),
        environment=archive_of(job),
        from_mlflow=training.from_mlflow(spec),
        optional=tuple(name for name, output in spec.outputs.items() if output.optional),
    )
    more: Manifest = {"subdomain": _service_name(job)} if spec.nodes > 1 else {}
    if task.checkpoint:
        more["terminationGracePeriodSeconds"] = task.checkpoint.grace_seconds
    job_context = context(job, platform)
    code, args, env = _source_name(job), command(job), trials.trial_env(job.manifest, platform)
    return training.pod_spec(
        job, platform, task, job_context, source=code, args=args, env=env, memory=memory, more=more
    )


def _is_recorded_elsewhere(job: Job) -> bool:
    """True for a trial, which its sweep's coordinator records, and for the work of a dataset, which trains nothing."""
    owner = (job.manifest["metadata"].get("labels") or {}).get(LABEL_KIND)
    return trials.task_of(job.manifest) is not None or owner in (DATASET.kind, DATASET_VERSION.kind)


def checkpoint_task(job: Job) -> CheckpointTask | None:
    """Return the trainer's task with checkpoints, if the job has any."""
    checkpoint = job.spec.checkpoint
    if checkpoint is None or not checkpoint.enabled:
        return None
    return CheckpointTask(
        resume=checkpoint.resume == "Auto",
        resume_from=checkpoint.resume_from or "",
        grace_seconds=checkpoint.grace_period_seconds,
    )


def gang_task(job: Job) -> GangTask | None:
    """Return how the pods work together; None for a plain command in one pod."""
    spec = job.spec
    if spec.framework is None and spec.nodes == 1:
        return None
    gpus = spec.resources.limits.get(GPU, 0)
    processes = int(gpus) if spec.framework in ("torch", "mpi") and str(gpus).isdigit() else 1
    return GangTask(
        framework=spec.framework or "none",
        processes=spec.processes_per_node or max(processes, 1),
        nodes=spec.nodes,
        min_nodes=spec.elastic.min_nodes if spec.elastic else 0,
        # The name that Kubernetes gives a pod of an Indexed Job in its subdomain.
        leader=f"{job.name}-0.{_service_name(job)}" if spec.nodes > 1 else "",
    )


def context(job: Job, platform: Platform) -> TrainingContext:
    """Return the identity of the attempt, and where it reports; parameters as far as a variable has room for them."""
    parameters: dict[str, str] = {}
    room = MAX_PARAMETERS
    for name, value in sorted(job.spec.parameters.items()):
        room -= len(json.dumps({name: value[:MAX_PARAMETER]}))
        if len(name) <= MAX_PARAMETER_NAME and room >= 0:
            parameters[name] = value[:MAX_PARAMETER]
    return TrainingContext(
        job=f"{job.namespace}/{job.name}",
        uid=job.uid,
        requested_by=platform.requester(job.manifest),
        image=image_of(job, platform),
        source_digest=training.source_digest(job),
        parameters=parameters,
        worth_retrying=worth_retrying(job),
        progress=f"{platform.progress_url}/progress/{job.namespace}/{job.name}" if platform.progress_url else "",
        mlflow="" if _is_recorded_elsewhere(job) else platform.mlflow_uri,
        scoped_keys=platform.storage_confined,
        cache=cache_task_of(job.manifest),
    )
