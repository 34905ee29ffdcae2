"""Making ModelVersions of a job's outputs, exactly once.

The next free number and the create that fails where a name is taken are together a compare-and-swap: two passes, or
two operators, that both see version 4 as the newest both try to create version 5, and one of them is refused, looks
again and finds the version that carries its job's uid. So no pass needs to remember what an earlier one did.
"""

from __future__ import annotations

from ...shared import contract
from ...shared.meta import API_VERSION, GROUP, Manifest
from ...shared.plan import Seen
from ..model.schema import version_name, version_number
from .manifests import Job

LABEL_JOB_UID = f"{GROUP}/training-job-uid"
LABEL_OUTPUT = f"{GROUP}/output"


def registered(job: Job, seen: Seen) -> dict[str, str]:
    """Output name to the name of the ModelVersion that was made of it."""
    found: dict[str, str] = {}
    for version in seen.others("ModelVersion"):
        labels = version["metadata"].get("labels") or {}
        if labels.get(LABEL_JOB_UID) == job.uid and labels.get(LABEL_OUTPUT):
            found[labels[LABEL_OUTPUT]] = version["metadata"]["name"]
    return found


def to_register(job: Job, record: contract.TerminationRecord, seen: Seen) -> tuple[Manifest, ...]:
    """The Models and ModelVersions that are still to be made of this job's outputs."""
    done = registered(job, seen)
    models = {model["metadata"]["name"]: model for model in seen.others("Model")}
    newest: dict[str, int] = {}
    create: list[Manifest] = []
    for name, output in sorted(job.spec.outputs.items()):
        if output.register_as is None or name in done or name not in record.outputs:
            continue
        model = output.register_as
        if model not in models:
            meta = {"name": model, "namespace": job.namespace}
            create.append({"apiVersion": API_VERSION, "kind": "Model", "metadata": meta, "spec": {}})
        number = newest.get(model, _newest(model, models.get(model), seen)) + 1
        newest[model] = number
        create.append(_model_version(job, name, model, number, record))
    return tuple(create)


def _newest(model: str, known: Manifest | None, seen: Seen) -> int:
    """The highest number ever given: a deleted newest version's number is not given again."""
    told = version_number(((known or {}).get("status") or {}).get("latestVersion"))
    numbers = [
        version_number(version["spec"].get("version"))
        for version in seen.others("ModelVersion")
        if version["spec"].get("model") == model
    ]
    return max([told, *numbers])


def _model_version(job: Job, name: str, model: str, number: int, record: contract.TerminationRecord) -> Manifest:
    output, wanted = record.outputs[name], job.spec.outputs[name].compile
    lineage: Manifest = {"trainingJob": job.name}
    if record.source.commit:
        lineage["gitCommit"] = record.source.commit
    if record.metrics:
        lineage["metrics"] = dict(list(record.metrics.items())[: contract.METRIC_LIMIT])
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": version_name(model, str(number)),
            "namespace": job.namespace,
            "labels": {LABEL_JOB_UID: job.uid, LABEL_OUTPUT: name},
        },
        "spec": {
            "model": model,
            "version": str(number),
            "uri": output.uri,
            "digest": output.digest,
            "format": {"name": output.format},
            "lineage": lineage,
            **({"compile": wanted.model_dump(by_alias=True)} if wanted and output.format != "onnx" else {}),
        },
    }
