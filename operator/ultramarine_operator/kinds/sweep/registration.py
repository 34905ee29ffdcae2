"""Making a ModelVersion of the best trial's output."""

from __future__ import annotations

from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import GROUP, Manifest
from ultramarine_contract.sweep_records import BestTrial

from ...runs import registration
from ...runs.registration import Candidate, Maker
from ...shared.plan import Seen
from .manifests import Sweep, best_output, objectives

LABEL_SWEEP_UID = f"{GROUP}/sweep-uid"


def registered(sweep: Sweep, seen: Seen) -> str:
    """The name of the ModelVersion that was made of the best trial, if it was."""
    return registration.registered(_maker(sweep, seen), seen).get(best_output(sweep), "")


def to_register(
    sweep: Sweep, best: BestTrial, record: OutputRecord, run: Manifest | None, seen: Seen
) -> tuple[Manifest, ...]:
    """The Model and the ModelVersion that are still to be made of the best trial; `run` records the sweep in MLflow."""
    names = [objective["metric"] for objective in objectives(sweep)]
    lineage = {"sweep": sweep.name, "trial": best.trial, "metrics": dict(zip(names, best.values, strict=False))}
    if run:
        lineage["mlflow"] = run
    output = best_output(sweep)
    wanted = sweep.spec.trial_template.spec.outputs[output]
    model = sweep.spec.register_best or ""
    candidate = Candidate(output, model, record, lineage, wanted.compile, wanted.allow_code_execution)
    return registration.to_register(_maker(sweep, seen), [candidate], seen)


def _maker(sweep: Sweep, seen: Seen) -> Maker:
    return Maker(sweep.namespace, LABEL_SWEEP_UID, sweep.uid, seen.platform.requester(sweep.manifest))
