"""One trial of a sweep: its state, its worker's reports, and its view for samplers and stoppers."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ultramarine_contract.common import LARGEST, UNREADABLE, OutputRecord, read_known
from ultramarine_contract.sweep_records import Fetched

from ultramarine_sweep.state.points import Points

if TYPE_CHECKING:
    from ultramarine_sweep.state.journal import Record

SUCCEEDED, STOPPED, FAILED = "Succeeded", "Stopped", "Failed"

POLL = 5.0  # seconds for which a worker without a trial is kept waiting, unless there is news
MESSAGE_LIMIT, TAIL_LIMIT = 500, 2000  # characters that are kept of a trial's words


@dataclass(frozen=True)
class Known:
    """Trial as samplers see it; `outcome` is empty while it runs.

    `values` are those of the objectives in their order, and `points` steps and values of the first one.
    """

    number: int
    params: Mapping[str, Any]
    outcome: str = ""
    values: tuple[float, ...] = ()
    points: tuple[tuple[int, float], ...] = ()


class Suggester(Protocol):
    """Says what to try. What it answers depends on its seed, the number, and the trials that it was told of.

    Numbers count from 0.
    """

    def ask(self, number: int) -> dict[str, Any] | None:
        """Parameters for the trial with this number, which counts as running from now on; None when all are used up."""

    def tell(self, trial: Known) -> None:
        """Take a trial, or what has become of it."""


class Stopper(Protocol):
    """Says which trials are not worth going on."""

    def add(self, number: int, step: int, value: float) -> str:
        """Take a value of the first objective; return why the trial should stop, or nothing."""

    @property
    def pauses(self) -> bool:
        """True if trials that should stop may be promoted later."""

    def pause(self, number: int) -> bool:
        """Let a trial that should stop wait for its promotion; False if there is none to wait for."""

    def promoted(self) -> int | None:
        """The paused trial that should go on before all others, if any should."""

    def resume(self, number: int) -> None:
        """Take a paused trial for one that goes on."""


@dataclass(frozen=True)
class Finished:
    """Worker's report of the end of a trial. A metric without a finite value is None.

    `outputs` is None where the worker has not stored any, and wants to know whether it should. From `checkpoint` a
    stopped trial can go on later.
    """

    trial: int
    attempt: int
    outcome: str
    exit_code: int = 0
    seconds: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)
    message: str = ""
    tail: str = ""
    outputs: dict[str, OutputRecord] | None = None
    checkpoint: OutputRecord | None = None
    fetched: Fetched | None = None

    @classmethod
    def of(cls, document: Any) -> Finished:
        """Read it as the protocol has it. Raises ValueError for anything else."""
        try:
            outputs, checkpoint = document.get("outputs"), document.get("checkpoint")
            fetched = document.get("fetched")
            finished = cls(
                _count(document["trial"]),
                _count(document["attempt"]),
                str(document["outcome"]),
                int(document.get("exitCode", 0)),
                float(document.get("seconds", 0.0)),
                {str(name): _finite(value) for name, value in document.get("metrics", {}).items()},
                str(document.get("message", ""))[:MESSAGE_LIMIT],
                str(document.get("tail", ""))[-TAIL_LIMIT:],
                {name: read_known(OutputRecord, output) for name, output in outputs.items()}
                if outputs is not None
                else None,
                read_known(OutputRecord, checkpoint) if checkpoint is not None else None,
                read_known(Fetched, fetched) if fetched is not None else None,
            )
        except UNREADABLE as error:
            raise ValueError(f"not a finished trial: {error!r}") from error
        if finished.outcome not in (SUCCEEDED, STOPPED, FAILED) or not 0 <= finished.seconds < LARGEST:
            raise ValueError(f"not a finished trial: outcome {finished.outcome!r} after {finished.seconds} s")
        return finished


@dataclass(slots=True)
class Trial:
    """One trial: its parameters, who runs it for which time, and what has become of it.

    One that is `paused` has been stopped, and may go on. What it goes on from is `checkpoint`, of which `step` is the
    last one that was told; `seconds` are those up to then. `began` (the last time) and `ended` are in the sweep's own
    time, and so is `runs_since`: the time from which its resources count, None until its pod reports.
    """

    number: int
    params: dict[str, Any]
    attempt: int = 1
    worker: str = ""
    waiting: bool = False  # for another worker
    began: float = 0.0
    runs_since: float | None = None
    ended: float = 0.0
    losses: int = 0
    outcome: str = ""
    values: tuple[float, ...] = ()
    exit_code: int = 0
    seconds: float = 0.0
    message: str = ""
    tail: str = ""
    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    paused: bool = False
    checkpoint: OutputRecord | None = None
    step: int = -1
    fetched: Fetched | None = None  # where outputs are stored
    points: Points = field(default_factory=Points)

    @property
    def is_running(self) -> bool:
        return not self.outcome and not self.waiting

    def spent(self, now: float) -> float:
        """Return the seconds of this run until now."""
        return max(now - self.runs_since, 0.0) if self.runs_since is not None else 0.0

    @property
    def view(self) -> Known:
        """One that goes on after a pause is known as it was then, until it has ended."""
        if self.checkpoint and not self.outcome:
            points = tuple(point for point in self.points if point[0] <= self.step)
            return Known(self.number, self.params, STOPPED, self.values, points)
        return Known(self.number, self.params, self.outcome, self.values, tuple(self.points))

    def to_record(self) -> Record:
        """The whole trial, without what is as usual."""
        usual = Trial(self.number, {})
        names = [name for name in Trial.__slots__ if name != "points" and getattr(self, name) != getattr(usual, name)]
        record = {"kind": "trial", "number": self.number, **{name: getattr(self, name) for name in names}}
        if self.outputs:
            record["outputs"] = {name: output.document() for name, output in self.outputs.items()}
        if self.checkpoint:
            record["checkpoint"] = self.checkpoint.document()
        if self.fetched:
            record["fetched"] = self.fetched.document()
        if len(self.points):
            record["points"] = list(self.points)
        return record

    @classmethod
    def of(cls, record: Record) -> Trial:
        """Read what `to_record` wrote."""
        given = {name: value for name, value in record.items() if name in cls.__slots__}
        params = {sys.intern(name): _shared(value) for name, value in record.get("params", {}).items()}
        outputs = {name: read_known(OutputRecord, output) for name, output in record.get("outputs", {}).items()}
        checkpoint = read_known(OutputRecord, record["checkpoint"]) if "checkpoint" in record else None
        values, points = tuple(record.get("values", ())), Points((s, v) for s, v in record.get("points", ()))
        fetched = read_known(Fetched, record["fetched"]) if "fetched" in record else None
        read = {"params": params, "outputs": outputs, "checkpoint": checkpoint, "values": values, "points": points}
        return cls(**(given | read | {"fetched": fetched}))


@dataclass(frozen=True)
class Lease:
    """A trial for the worker that asked; one that goes on does so from its checkpoint, of that step."""

    number: int
    attempt: int
    params: Mapping[str, Any]
    checkpoint: OutputRecord | None = None
    step: int = -1


@dataclass(frozen=True)
class Ask:
    """A new trial is due, with this number: it needs parameters, and then `start`."""

    number: int


@dataclass(frozen=True)
class Wait:
    """Nothing now; the worker asks again when there is news, or after `seconds`."""

    seconds: float = POLL


@dataclass(frozen=True)
class Done:
    """The sweep is over."""


def _shared(value: Any) -> Any:
    """A parameter's value; a text is one of few, which thousands of trials have."""
    return sys.intern(value) if type(value) is str else value


def from_outside(code: int) -> bool:
    """True if a command was ended by a signal that others send, maybe behind a shell: it may say nothing of the next.

    Not so a crash, as by SIGSEGV, nor a code of the command's own above 128.
    """
    return (-code if code < 0 else code - 128) in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < LARGEST:
        raise TypeError(f"{value!r} is not a count")
    return value


def _finite(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
