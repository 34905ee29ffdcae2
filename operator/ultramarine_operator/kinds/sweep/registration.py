"""Registration of the best trial's output as a ModelVersion."""

from __future__ import annotations

from ultramarine.resources.base import MlflowStatus
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import GROUP, Manifest
from ultramarine_contract.sweep_records import BestTrial

from ...runs import registration
from ...runs.registration import Candidate, Maker
from ...shared.plan import Seen
from .manifests import Sweep, best_output, objectives

LABEL_SWEEP_UID = f"{GROUP}/sweep-uid"


def registered(sweep: Sweep, seen: Seen) -> str:
    """Return the name of the best trial's ModelVersion; empty if it does not exist yet."""
    return registration.registered(_maker(sweep, seen), seen).get(best_output(sweep), "")


def to_register(
    sweep: Sweep, best: BestTrial, record: OutputRecord, run: MlflowStatus | None, seen: Seen
) -> tuple[Manifest, ...]:
    """Return the Model and the ModelVersion of the best trial that do not exist yet; `run` is the sweep's in MLflow."""
    names = [objective["metric"] for objective in objectives(sweep)]
    lineage = {"sweep": sweep.name, "trial": best.trial, "metrics": dict(zip(names, best.values, strict=False))}
    if best.fetched and best.fetched.source.commit:
        lineage["gitCommit"] = best.fetched.source.commit[:64]
    if run:
        lineage["mlflow"] = run.model_dump(by_alias=True)
    output = best_output(sweep)
    spec = sweep.spec.trial_template.spec.outputs[output]
    model = sweep.spec.register_best or ""
    candidate = Candidate(output, model, record, lineage, spec.compile, spec.allow_code_execution)
    return registration.to_register(_maker(sweep, seen), [candidate], seen)


def _maker(sweep: Sweep, seen: Seen) -> Maker:
    return Maker(sweep.namespace, LABEL_SWEEP_UID, sweep.uid, seen.platform.requester(sweep.manifest))
