"""Provenance of a run in its status: the image, the environment, the code and the inputs of its pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultramarine.resources.environment import EnvironmentPin
from ultramarine.resources.sweep_status import SweepStatus
from ultramarine.resources.trainingjob_status import InputStatus, Provenance, TrainingJobStatus
from ultramarine_contract.training_records import InputRecord, SourceRecord

from ..shared.statuses import cut

MAX_INPUTS = 32

Status = TrainingJobStatus | SweepStatus


def ran(status: Status, **provenance: Any) -> None:
    """Add to the provenance, without what is empty."""
    if new := {name: value for name, value in provenance.items() if value}:
        status.provenance = (status.provenance or Provenance()).model_copy(update=cut(Provenance, **new))


def use(status: Status, environment: EnvironmentPin) -> None:
    """Add the environment of the command to the provenance."""
    ran(status, **environment.model_dump(exclude_defaults=True))


def add_fetched(status: Status, source: SourceRecord, inputs: Mapping[str, InputRecord]) -> None:
    """Add the code and the inputs that a trainer fetched."""
    ran(status, source_digest=source.digest, git_commit=source.commit)
    if inputs:
        status.inputs = {
            name: InputStatus(
                **({"digest": given.digest[:100]} if given.digest else {}), bytes=given.bytes, files=given.files
            )
            for name, given in sorted(inputs.items())[:MAX_INPUTS]
        }
