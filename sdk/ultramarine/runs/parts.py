"""Parts of a run's log: all of it, a node of a gang, or a trial of a sweep's pool."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import SWEEP, TRAINING_JOB

from ..kube.errors import NotFound

if TYPE_CHECKING:
    from .run import Run

_INDEXED_POD = re.compile(r".+-(\d+)-[^-]+")  # JOB-INDEX-RANDOM, as Kubernetes names the pods of an Indexed Job
_BEGIN = re.compile(r"ultramarine-trainer: trial (\d+) begins: ")  # what a pool's worker prints before a command


class NoSuchPart(UltramarineError):
    """The run has no such node or trial."""

    reason = "NoSuchPart"


class Part:
    """The whole log."""

    def has_pod(self, pod: str) -> bool:
        """Return True if a pod's log belongs to the part."""
        return True

    def has_line(self, pod: str, line: str) -> bool:
        """Return True if a line belongs to the part; each pod's lines have to come in order."""
        return True


class NodePart(Part):
    """The pods of one node, of all attempts."""

    def __init__(self, node: int) -> None:
        self._node = node

    def has_pod(self, pod: str) -> bool:
        """Return True for a pod with the node's index."""
        match = _INDEXED_POD.fullmatch(pod)
        return match is not None and int(match[1]) == self._node


class TrialPart(Part):
    """The lines of one trial in the logs of a pool's workers, each of which runs trial after trial."""

    def __init__(self, trial: int) -> None:
        self._trial, self._running = trial, dict[str, int]()  # trial by pod

    def has_line(self, pod: str, line: str) -> bool:
        """Return True from the line at which a worker begins the trial to the one at which it begins another."""
        if match := _BEGIN.match(line):
            self._running[pod] = int(match[1])
        return self._running.get(pod) == self._trial


def node_part(run: Run, node: int) -> Part:
    """Return the part of a node's pods. Raises NoSuchPart."""
    object = run.object
    what = f"{run.resource.kind} {run.name}"
    if run.resource.kind != TRAINING_JOB.kind:
        raise NoSuchPart(f"{what} has no nodes. Use --node with a TrainingJob, and --trial with a Sweep.")
    nodes = int(object["spec"].get("nodes") or 1)
    if not 0 <= node < nodes:
        raise NoSuchPart(f"{what} has no node {node}. Its nodes: {_numbers(range(nodes))}.")
    return NodePart(node)


def trial_part(run: Run, trial: int) -> tuple[Run, Part]:
    """Return the run and the part of its log that are a trial's: its own job, or lines of a pool. Raises NoSuchPart."""
    from ..sweeps import SweepRun

    what = f"{run.resource.kind} {run.name}"
    if not isinstance(run, SweepRun):
        raise NoSuchPart(f"{what} has no trials. Use --trial with a Sweep.")
    own_jobs = run.object["spec"].get("execution") == "PodPerTrial"
    if own_jobs and trial >= 0:
        name = f"{run.name}-trial-{trial}"
        try:
            job = run.client.run(name)
        except NotFound:
            pass
        else:
            if any(o["kind"] == SWEEP.kind and o["name"] == run.name for o in _owners(job)):
                return job, Part()
    numbers = [existing.number for existing in run.trial_list()]
    if trial not in numbers:
        existing = f"Its trials: {_numbers(numbers)}." if numbers else "No trial has begun."
        raise NoSuchPart(f"{what} has no trial {trial}. {existing}")
    if own_jobs:
        raise NoSuchPart(
            f"TrainingJob {run.name}-trial-{trial} of {what} was deleted. Its archived log stays in the object"
            " storage below the job's folder."
        )
    return run, TrialPart(trial)


def _owners(run: Run) -> list[dict[str, str]]:
    return list(run.object["metadata"].get("ownerReferences") or [])


def _numbers(numbers: Iterable[int]) -> str:
    """Return numbers as ranges: 0 to 4, 7."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
