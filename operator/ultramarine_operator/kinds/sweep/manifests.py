"""The children of a Sweep: the coordinator's Job and its Service, the workers' Indexed Job, a ConfigMap for code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ultramarine.resources.sweep import SweepSpec
from ultramarine.resources.sweep_status import MAX_URI
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract import common as contract
from ultramarine_contract import sweep_records
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import GROUP, LABEL_KIND, LABEL_NAME, Manifest, child_labels, child_metadata
from ultramarine_contract.quantities import amount
from ultramarine_contract.references import REFERENCE
from ultramarine_contract.searchgrid import BLIND
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.sweep_records import BestTrial, SweepTask, WorkerTask
from ultramarine_contract.training_records import CheckpointTask, TrainingContext, TrainingTask

from ...runs import queues
from ...shared.plan import GenerateSecret, Obj, Platform
from ...shared.pods import TRAINER
from ...shared.podspec import (
    POD_SECURITY,
    locked_container,
    placed,
    pull_secrets,
    scratch,
    storage_env,
    tls_mounts,
    tls_volumes,
    with_disk,
)
from ...training import pods as training
from ...training import trials
from ...training.datasets import pins_of
from ...training.environment import archive_of, image_of
from ...training.steps import cache_task_of

Sweep = Obj[SweepSpec]
Trial = Obj[TrainingJobSpec]

COORDINATOR = "coordinator"  # the container
# Its algorithm may take what there is; its disk is for pictures and tables at the end.
COORDINATOR_RESOURCES = with_disk(
    {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}, "10Gi"
)
LABEL_ROLE = f"{GROUP}/role"  # of the pods that the Service selects
RETRIES = 100  # of the coordinator, which goes on from its journal

DEADLINE_GRACE = 120  # seconds for its start and its end, with pictures
RETRIES_EACH = 6  # of a worker

KILLED = 137  # exit code after SIGKILL, usually of a trial that ran out of memory
GPU = "/gpu"
MAX_TAG = 500  # characters that every release of MLflow takes


def trial_of(sweep: Sweep) -> Trial:
    """Return the sweep as a job whose spec is the template of its trials."""
    return Obj(sweep.manifest, sweep.spec.trial_template.spec)


def prefix(sweep: Sweep, platform: Platform) -> str:
    """Return the folder of all that this sweep stores; its uid keeps a later sweep of the same name apart."""
    return prefix_of(platform, sweep.namespace, sweep.name, sweep.uid)


def prefix_of(platform: Platform, namespace: str, name: str, uid: str) -> str:
    """Return the folder of a sweep of that name and uid."""
    return f"s3://{platform.storage_bucket}/{namespace}/sweeps/{name}/{uid}/"


def coordinator_name(sweep: Sweep) -> str:
    return sweep_records.coordinator_name(sweep.name)


def workers_name(sweep: Sweep) -> str:
    return f"{sweep.name}-workers"


def source_name(sweep: Sweep) -> str:
    return f"{sweep.name}-sweep-source"  # not NAME-source, which a TrainingJob of the same name has


def token_secret_name(sweep: Sweep) -> str:
    return trials.token_secret_name(sweep.name)


def token_secret(sweep: Sweep) -> GenerateSecret:
    """Return the Secret by which workers and coordinator authenticate."""
    return GenerateSecret(tuple(child_metadata(sweep.manifest, token_secret_name(sweep)).items()), (trials.TOKEN_KEY,))


def source_config_map(sweep: Sweep) -> Manifest | None:
    """Return the inline source as a ConfigMap; None without any."""
    return training.source_config_map(trial_of(sweep), source_name(sweep))


def coordinator_service(sweep: Sweep) -> Manifest:
    """Return the Service of the coordinator, ready or not: the workers see by themselves if it answers."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(sweep.manifest, coordinator_name(sweep)),
        "spec": {
            "publishNotReadyAddresses": True,
            "selector": {LABEL_KIND: "Sweep", LABEL_NAME: sweep.name, LABEL_ROLE: COORDINATOR},
            "ports": [{"name": "http", "port": contract.SWEEP_PORT, "protocol": "TCP"}],
        },
    }


def objectives(sweep: Sweep) -> list[Manifest]:
    """Return the objectives as the spec has them."""
    objectives = [sweep.spec.objective] if sweep.spec.objective else sweep.spec.objectives or []
    return [objective.model_dump(by_alias=True, exclude_none=True) for objective in objectives]


def can_pause(sweep: Sweep) -> bool:
    """True if a trial that is ended early may go on later."""
    early, checkpoint = sweep.spec.early_termination, sweep.spec.trial_template.spec.checkpoint
    return bool(early and early.type in ("asha", "hyperband") and checkpoint and checkpoint.enabled)


def best_output(sweep: Sweep) -> str:
    """Return the output that registerBest registers; empty without any."""
    outputs = sweep.spec.trial_template.spec.outputs
    if sweep.spec.register_best is None or not outputs:
        return ""
    return "model" if "model" in outputs else next(iter(outputs))


def stored(sweep: Sweep, best: BestTrial, platform: Platform) -> dict[str, OutputRecord]:
    """Return the outputs that a trial has stored, by name; those outside the trials' folder do not count."""
    where = prefix(sweep, platform)
    if has_pod_per_trial(sweep):
        name = trials.trial_name(sweep.name, best.trial)
        where = f"s3://{platform.storage_bucket}/{sweep.namespace}/trainingjobs/{name}/"
    expected = sweep.spec.trial_template.spec.outputs
    return {
        name: output
        for name, output in best.outputs.items()
        if name in expected and output.uri.startswith(where) and len(output.uri) <= MAX_URI
    }


def best_format(sweep: Sweep) -> str:
    """Return the format that this output is to have; empty if no output is registered."""
    outputs, name = sweep.spec.trial_template.spec.outputs, best_output(sweep)
    return (outputs[name].format or contract.AUTO) if name else ""


def max_trials(sweep: Sweep, grid: int | None) -> int:
    """Return the maximum number of trials: a grid has no more than its points. 0 for no limit."""
    bounds = [n for n in (sweep.spec.limits.max_trials, grid) if n]
    return min(bounds, default=0)


def sweep_task(sweep: Sweep, platform: Platform, most: int, warm_start: Sequence[str]) -> SweepTask:
    """Return the coordinator's task, with `most` trials."""
    spec, raw = sweep.spec, sweep.manifest["spec"]
    budget, stopping, trial = spec.budget, spec.early_termination, spec.trial_template.spec
    return SweepTask(
        sweep=f"{sweep.namespace}/{sweep.name}",
        uid=sweep.uid,
        prefix=prefix(sweep, platform),
        objectives=tuple(objectives(sweep)),
        space=raw["searchSpace"],  # as written, so that numbers and strings stay what they are
        algorithm=_algorithm(sweep),
        early_termination=stopping.model_dump(by_alias=True, exclude_none=True) if stopping else None,
        warm_start=tuple(warm_start),
        max_trials=most,
        max_failed_trials=spec.limits.max_failed_trials or 0,
        trial_timeout_seconds=spec.limits.trial_timeout_seconds or 0,
        deadline_seconds=spec.active_deadline_seconds or 0,
        canary_trial=spec.canary_trial,
        budget_seconds=(budget.seconds if budget else None) or 0,
        cpu_hours=(budget.cpu_hours if budget else None) or 0.0,
        gpu_hours=(budget.gpu_hours if budget else None) or 0.0,
        trial_cpus=_cpus(trial) * trial.nodes,
        trial_gpus=_gpus(trial) * trial.nodes,
        outputs=tuple(sorted(trial.outputs)),
        keep_outputs=spec.keep_outputs,
        progress=f"{platform.progress_url}/sweeps/{sweep.namespace}/{sweep.name}" if platform.progress_url else "",
        mlflow=platform.mlflow_uri,
        mlflow_tags=_mlflow_tags(sweep, platform) if platform.mlflow_uri else {},
        pod_per_trial=has_pod_per_trial(sweep),
        cache=cache_task_of(sweep.manifest),
    )


def _algorithm(sweep: Sweep) -> Manifest:
    """Return the algorithm for the coordinator, with the initial trials as written."""
    algorithm = sweep.spec.algorithm
    first = (sweep.manifest["spec"].get("algorithm") or {}).get("initialTrials")
    return {"type": algorithm.type, "seed": algorithm.seed} | ({"initialTrials": first} if first else {})


def has_pod_per_trial(sweep: Sweep) -> bool:
    """True if each trial is a TrainingJob."""
    return sweep.spec.execution == "PodPerTrial"


def _mlflow_tags(sweep: Sweep, platform: Platform) -> dict[str, str]:
    """Return user and source as MLflow tags, by the names that a TrainingJob's run has for them."""
    trial = trial_of(sweep)
    source, command = training.source_task(trial) or SourceTask(), [*trial.spec.command, *trial.spec.args]
    tags = {
        "mlflow.source.type": "JOB",
        "mlflow.source.name": (source.git_url or source.uri or " ".join(command))[:MAX_TAG],
        "mlflow.user": platform.requester(trial.manifest),
    }
    return {name: value for name, value in tags.items() if value}


def _cpus(spec: TrainingJobSpec) -> float:
    """Return the CPUs that a trial reserves: a request that is left out is as large as the limit."""
    cpus = spec.resources.requests.get("cpu", spec.resources.limits.get("cpu", 0))
    return float(amount(str(cpus)))


def _gpus(spec: TrainingJobSpec) -> float:
    return float(sum(amount(str(count)) for name, count in spec.resources.limits.items() if name.endswith(GPU)))


def coordinator_job(sweep: Sweep, task: SweepTask, platform: Platform) -> Manifest:
    """Return the Job whose pod suggests trials and leases them; another pod goes on from the journal."""
    tokens: list[Manifest] = [training.token_volume()] if task.progress else []
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}, *([training.TOKEN_MOUNT] if task.progress else [])]
    mounts += tls_mounts(platform, "sweep")
    template = sweep.spec.trial_template.spec.pod_template
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **placed(platform.pods.training),
        # A pod that may preempt the workers would stop them all by preempting the coordinator.
        **({"priorityClassName": template.priority_class_name} if template.priority_class_name else {}),
        "containers": [
            locked_container(
                platform,
                COORDINATOR,
                platform.trainer_image,
                COORDINATOR_RESOURCES,
                command=["ultramarine-sweep"],
                env=[
                    {"name": contract.ENV_SWEEP, "value": training.plain(task.to_json())},
                    trials.token_env(sweep.name),
                    *storage_env(platform),
                    *(training.mlflow_env(platform) if task.mlflow else []),
                    _pod_name(),
                ],
                envFrom=[{"secretRef": {"name": platform.storage_secret}}],
                volumeMounts=mounts,
            )
        ],
        "volumes": [scratch("tmp", COORDINATOR_RESOURCES), *tokens, *tls_volumes(platform, "sweep")],
    }
    # The coordinator keeps the deadline. If it cannot, Kubernetes does a little later.
    last = {"activeDeadlineSeconds": task.deadline_seconds + DEADLINE_GRACE} if task.deadline_seconds else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(sweep.manifest, coordinator_name(sweep)),
        "spec": {
            "suspend": sweep.spec.suspend,
            **last,
            "backoffLimit": RETRIES,
            "podReplacementPolicy": "Failed",  # two would only take the journal from each other
            "podFailurePolicy": {"rules": _failure_rules(COORDINATOR)},
            "template": {
                "metadata": {"labels": {**child_labels("Sweep", sweep.name), LABEL_ROLE: COORDINATOR}},
                "spec": pod,
            },
        },
    }


def workers_job(sweep: Sweep, platform: Platform, params: Sequence[str], most: int) -> Manifest:
    """Return the Job whose pods run one trial after another; Indexed, since only then may their number change."""
    count = workers(sweep, most)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": queues.labelled(child_metadata(sweep.manifest, workers_name(sweep)), sweep.manifest),
        "spec": {
            "suspend": sweep.spec.suspend or queues.is_queued(sweep.manifest),
            "backoffLimit": RETRIES_EACH * count,
            "completions": count,
            "parallelism": count,
            "completionMode": "Indexed",
            "podReplacementPolicy": "Failed",
            # A worker that was killed while a trial ran may go on with the next one: the trial has failed.
            "podFailurePolicy": {"rules": [*_failure_rules(TRAINER), _on_exit("Ignore", TRAINER, KILLED)]},
            "template": {
                "metadata": {"labels": child_labels("Sweep", sweep.name)},
                "spec": _worker_pod(sweep, platform, params),
            },
        },
    }


def workers(sweep: Sweep, most: int) -> int:
    """Return the number of pods that run trials."""
    return min(sweep.spec.limits.parallel_trials, most or sweep.spec.limits.parallel_trials)


def _failure_rules(container: str) -> list[Manifest]:
    return [
        # An eviction is not the pod's fault: it does not count against backoffLimit.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _on_exit("FailJob", container, contract.EXIT_DO_NOT_RETRY),
    ]


def _on_exit(action: str, container: str, code: int) -> Manifest:
    return {"action": action, "onExitCodes": {"containerName": container, "operator": "In", "values": [code]}}


def _worker_pod(sweep: Sweep, platform: Platform, params: Sequence[str]) -> Manifest:
    trial, spec = trial_of(sweep), sweep.spec.trial_template.spec
    pins = pins_of(trial)
    task = TrainingTask(
        inputs=training.downloads(spec, pins),
        digests=training.digests(spec, pins),
        streams=training.streams(spec),
        outputs={name: best_format(sweep) if name == best_output(sweep) else "" for name in spec.outputs},
        output_prefix=prefix(sweep, platform),
        source=training.source_task(trial),
        checkpoint=CheckpointTask() if spec.checkpoint and spec.checkpoint.enabled else None,
        environment=archive_of(trial),
        from_mlflow=training.from_mlflow(spec),
    )
    # No `progress`: the coordinator speaks for all of them.
    context = TrainingContext(
        job=f"{sweep.namespace}/{sweep.name}",
        uid=sweep.uid,
        requested_by=platform.requester(trial.manifest),
        image=image_of(trial, platform),
        source_digest=training.source_digest(trial),
        scoped_keys=platform.storage_confined,
    )
    work = WorkerTask(
        trials.coordinator_url(sweep.name, sweep.namespace, tls=platform.tls), tuple(command(sweep, params))
    )
    env = ({"name": contract.ENV_SWEEP, "value": training.plain(work.to_json())}, trials.token_env(sweep.name))
    return training.pod_spec(trial, platform, task, context, source=source_name(sweep), args=[], env=env)


def command(sweep: Sweep, params: Sequence[str]) -> list[str]:
    """Return the command line of a trial, in which only the parameters of the search space are not filled in.

    Raises InvalidSpec for a reference without a target.
    """
    spec = sweep.spec.trial_template.spec
    values: Mapping[str, str] = {**spec.parameters, **{name: f"$(params.{name})" for name in params}}
    return training.command_line(spec, values, "spec.trialTemplate.spec", "spec.searchSpace")


def unused(sweep: Sweep) -> str:
    """Return a warning of parameters without a reference in the command; empty without any.

    A parameter that decides by `when` about others needs no reference of its own.
    """
    spec, space = sweep.spec.trial_template.spec, sweep.spec.search_space
    referred = {match[2] for text in (*spec.command, *spec.args) for match in REFERENCE.finditer(text)}
    referred |= {name for parameter in space.values() for name in parameter.when or {}}
    if not (names := [name for name in space if name not in referred]):
        return ""
    where = ", ".join(f"spec.searchSpace.{name}" for name in names)
    remedy = ", ".join(f"$(params.{name})" for name in names)
    return (
        f"no trial gets {where}: neither command nor args in spec.trialTemplate.spec refer to it; make the sweep "
        f"again with {remedy} there, or leave it out"
    )


def unlearned(sweep: Sweep) -> str:
    """Return a warning of a warm start that the algorithm ignores; empty without any."""
    type = sweep.spec.algorithm.type
    if not sweep.spec.algorithm.warm_start_from or type not in BLIND:
        return ""
    return (
        f"spec.algorithm.warmStartFrom changes nothing, since {type} learns from no trial; make the sweep again with "
        "tpe, gp, cmaes or nsga2, or leave it out"
    )


def _pod_name() -> Manifest:
    return {"name": contract.ENV_POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
