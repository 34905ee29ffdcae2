"""Results of a step's object, as the state of the step has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultramarine.resources.pipeline import StepOutput
from ultramarine.resources.pipeline_values import fitting_outputs, named_by_digest
from ultramarine_contract.common import METRIC_LIMIT
from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, Manifest

MAX_MESSAGE = 500
MAX_PART_MESSAGE = 200  # characters of a repetition's message, and of its reason to run
ENDED = ("Succeeded", "Failed", "Skipped")


def outputs_of(child: Manifest) -> dict[str, StepOutput]:
    """Return the outputs of an object that has succeeded."""
    status = child.get("status") or {}
    if child["kind"] == TRAINING_JOB.kind:
        places = {name: (out.get("uri"), out.get("digest", "")) for name, out in (status.get("outputs") or {}).items()}
    elif child["kind"] == SWEEP.kind:
        best = (status.get("best") or [{}])[0]
        places = {name: (uri, "") for name, uri in (best.get("outputs") or {}).items()}
    else:
        places = {name: (out.get("uri"), out.get("digest", "")) for name, out in (status.get("outputs") or {}).items()}
    return fitting_outputs((name, str(uri), str(digest)) for name, (uri, digest) in places.items())


def shortened(message: str, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return message and fields of a repetition that has ended, without what its object or its URIs say too.

    The key stays with the object. The folder of an output has the first digits of the digest in its name.
    """
    kept = {name: value for name, value in fields.items() if name != "key" or not fields.get("child")}
    kept["outputs"] = {name: named_by_digest(output) for name, output in (fields.get("outputs") or {}).items()}
    kept["miss_reason"] = (fields.get("miss_reason") or "")[:MAX_PART_MESSAGE]
    return message[:MAX_PART_MESSAGE], kept


def metrics_of(child: Manifest) -> dict[str, float]:
    """Return the metrics of an object that has succeeded: of a job the last values, of a sweep those of the best."""
    status = child.get("status") or {}
    if child["kind"] == SWEEP.kind:
        values = (status.get("best") or [{}])[0].get("values") or {}
    else:
        values = (status.get("metrics") or {}).get("latest") or {}
    return dict(list(values.items())[:METRIC_LIMIT])


def may_pass(error: UltramarineError) -> bool:
    """True if another attempt may succeed."""
    return not isinstance(error, StorageError) or error.transient
