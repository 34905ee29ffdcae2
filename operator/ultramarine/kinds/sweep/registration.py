"""Making a ModelVersion of the best trial's output."""

from __future__ import annotations

from ...shared.contract import OutputRecord
from ...shared.meta import GROUP, Manifest
from ...shared.plan import Platform, Seen
from ...shared.sweep_records import BestTrial
from .. import registration
from ..registration import Candidate, Maker
from ..trials import trial_name
from .manifests import Sweep, best_output, has_pod_per_trial, objectives, prefix

LABEL_SWEEP_UID = f"{GROUP}/sweep-uid"


def stored(sweep: Sweep, best: BestTrial, platform: Platform) -> OutputRecord | None:
    """The best trial's output as it was uploaded; what is not where the sweep's trials store is not believed."""
    record, where = best.outputs.get(best_output(sweep)), prefix(sweep, platform)
    if has_pod_per_trial(sweep):
        where = f"s3://{platform.storage_bucket}/{sweep.namespace}/trainingjobs/{trial_name(sweep.name, best.trial)}/"
    return record if record is not None and record.uri.startswith(where) else None


def registered(sweep: Sweep, seen: Seen) -> str:
    """The name of the ModelVersion that was made of the best trial, if it was."""
    return registration.registered(_maker(sweep), seen).get(best_output(sweep), "")


def to_register(sweep: Sweep, best: BestTrial, record: OutputRecord, seen: Seen) -> tuple[Manifest, ...]:
    """The Model and the ModelVersion that are still to be made of the best trial."""
    names = [objective["metric"] for objective in objectives(sweep)]
    lineage = {"sweep": sweep.name, "trial": best.trial, "metrics": dict(zip(names, best.values, strict=False))}
    output = best_output(sweep)
    wanted = sweep.spec.trial_template.spec.outputs[output].compile
    candidate = Candidate(output, sweep.spec.register_best or "", record, lineage, wanted)
    return registration.to_register(_maker(sweep), [candidate], seen)


def _maker(sweep: Sweep) -> Maker:
    return Maker(sweep.namespace, LABEL_SWEEP_UID, sweep.uid)
