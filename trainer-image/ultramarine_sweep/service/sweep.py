"""One life of a sweep's coordinator, from its task to its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract import tls
from ultramarine_contract.common import EXIT_DO_NOT_RETRY, EXIT_TRY_AGAIN
from ultramarine_contract.errors import InvalidSpec, StorageError, UltramarineError
from ultramarine_contract.retry import patiently
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepSummary, SweepTask
from ultramarine_trainer.tracking.api import account_in

from ultramarine_sweep.service import recording
from ultramarine_sweep.service.caching import store_records
from ultramarine_sweep.service.coordinator import Coordinator, Times
from ultramarine_sweep.service.pods import PodCoordinator
from ultramarine_sweep.service.recording import Recorder
from ultramarine_sweep.service.summary import SummaryReporter, last_words
from ultramarine_sweep.state import journal
from ultramarine_sweep.state.journal import Fenced, Journal
from ultramarine_sweep.state.trial import FAILED, Known, Stopper, Suggester, Trial
from ultramarine_sweep.state.trials import Trials

T = TypeVar("T")

_MOST_OF_IT = 0.7  # of all trials
CRASHES = 3  # of coordinators within _CRASHES_SECONDS; then the sweep has failed, since another one would crash as well
_CRASHES_SECONDS = 3600.0
_CRASHES_NAME = "crashes.json"  # below the sweep's prefix
_CRASH_LIMIT = 300  # characters


@dataclass(frozen=True)
class Parts:
    """Decisions of a sweep: the parameters to try, given the trials of other sweeps, and the trials to stop.

    Both raise InvalidSpec for an impossible task. `files` yields the files of the finished trials for users, by
    their names below the sweep's prefix. Each file exists until the next one is requested. `prepare` starts to load the
    libraries for that.
    """

    suggester: Callable[[SweepTask, Sequence[Known]], Suggester]
    stopper: Callable[[SweepTask], Stopper | None]
    files: Callable[[SweepTask, Iterable[Trial]], Iterable[tuple[str, Path]]] = lambda task, trials: ()
    prepare: Callable[[SweepTask], None] = lambda task: None


@dataclass(frozen=True)
class Places:
    """Paths and times of a coordinator."""

    termination_log: Path = Path(contract.TERMINATION_LOG)
    token: Path = Path(contract.PROGRESS_TOKEN)
    port: int = contract.SWEEP_PORT
    times: Times = field(default_factory=Times)
    recording: recording.Times = field(default_factory=recording.Times)
    certificate: Path = Path(contract.TLS_DIR)


def say(line: str) -> None:
    """Tell the reader of the log."""
    print(f"ultramarine-sweep: {line}", file=sys.stderr, flush=True)


def run(environment: Mapping[str, str], parts: Parts, places: Places | None = None) -> int:
    """Coordinate a sweep until it is over, leave the last words, and return the exit code of the container."""
    places = places or Places()
    try:
        task = SweepTask.from_json(environment.get(contract.ENV_SWEEP, ""))
        if not (token := environment.get(contract.ENV_SWEEP_TOKEN, "")):
            raise ValueError(f"{contract.ENV_SWEEP_TOKEN} is empty")
    except ValueError as error:
        say(f"{contract.ENV_SWEEP} holds no sweep ({error}); this program is started by the operator")
        return EXIT_DO_NOT_RETRY
    teller = SummaryReporter(task.progress, places.token, say)
    pod, account = environment.get(contract.ENV_POD, ""), account_in(environment)
    recorder = Recorder(task, pod, say, places.recording, account)
    signal.signal(signal.SIGTERM, partial(_leave, recorder))
    try:
        storage = _storage(environment)
        coordinate = partial(_coordinate, task, token, storage, environment, parts, places, teller, recorder)
        if (lived := _lived(task, storage, coordinate)) is None:
            return EXIT_TRY_AGAIN
        summary = lived
        _patiently(lambda: storage.write(task.prefix + contract.SUMMARY_NAME, summary.to_json()))
        _patiently(lambda: store_records(storage, task, summary))
    except Fenced as fenced:
        say(f"{fenced}; this one leaves")
        return EXIT_TRY_AGAIN
    except StorageError as error:
        say(f"{error.reason}: {error.message}")
        if error.transient:
            return EXIT_TRY_AGAIN
        summary = _failed(teller, error)
    except UltramarineError as error:
        summary = _failed(teller, error)
    say(f"{summary.outcome} ({summary.reason}): {summary.message}")
    try:
        places.termination_log.write_bytes(last_words(summary))
    except OSError as error:
        say(f"the last words cannot be written to {places.termination_log}: {error}")
    recorder.close(summary)
    teller.close(summary)  # last: who is told may delete us
    return 0


def _failed(teller: SummaryReporter, error: UltramarineError) -> SweepSummary:
    """The end of a sweep that cannot go on; what it has come to stays counted."""
    return structs.replace(
        teller.newest, outcome=FAILED, reason=error.reason, message=error.message, running=0, wanted=()
    )


def _lived(
    task: SweepTask, storage: Storage, coordinate: Callable[[], Coroutine[Any, Any, SweepSummary]]
) -> SweepSummary | None:
    """Return the summary at the end of this coordinator; None if it crashed, and the next one may succeed."""
    try:
        return asyncio.run(coordinate())
    except (Fenced, UltramarineError):
        raise
    except Exception as error:  # a mistake of this program: perhaps of this moment only, perhaps of every life to come
        traceback.print_exc()
        if _patiently(partial(_crashes, storage, task.prefix)) < CRASHES:
            return None
        return _patiently(partial(_so_far, task, storage, f"{type(error).__name__}: {error}"))


async def _coordinate(
    task: SweepTask,
    token: str,
    storage: Storage,
    environment: Mapping[str, str],
    parts: Parts,
    places: Places,
    teller: SummaryReporter,
    recorder: Recorder,
) -> SweepSummary:
    stopper = parts.stopper(task)
    suggester = parts.suggester(task, await asyncio.to_thread(_warm_start, task, storage))
    writer = f"{environment.get(contract.ENV_POD, 'coordinator')}/{secrets.token_hex(8)}"
    uri = f"{task.prefix}{contract.JOURNAL_NAME}/"
    book = await asyncio.to_thread(Journal, storage, uri, writer, say)

    def tell(summary: SweepSummary) -> None:
        teller.tell(structs.replace(summary, mlflow_run=recorder.run_id))

    make = PodCoordinator if task.pod_per_trial else Coordinator
    coordinator = make(task, token, book, suggester, stopper, tell, recorder, places.times)
    if isinstance(coordinator, PodCoordinator):
        loop, hear = asyncio.get_running_loop(), coordinator.hear
        teller.answer_to(lambda answer: loop.call_soon_threadsafe(hear, answer))
    secure = (places.certificate / tls.CERTIFICATE).exists()
    await coordinator.listen(places.port, tls.server_context(places.certificate) if secure else None)
    recorder.start(coordinator.now)
    preparing = asyncio.create_task(_prepare(task, parts, coordinator))
    summary = await coordinator.run()
    recorder.end(summary)
    preparing.cancel()
    pruning = asyncio.to_thread(prune, storage, task.prefix, coordinator.kept, say)
    leaving = asyncio.to_thread(_leave_files, task, parts, storage, coordinator.finished)
    _, names = await asyncio.gather(pruning, leaving)
    return structs.replace(summary, mlflow_run=recorder.run_id, report=contract.REPORT_NAME in names)


async def _prepare(task: SweepTask, parts: Parts, coordinator: Coordinator) -> None:
    """Load what draws the pictures before the last trial has ended, so that the end waits only for the drawing."""
    while coordinator.ended < _MOST_OF_IT * task.max_trials:
        await asyncio.sleep(1)
    parts.prepare(task)


def _leave_files(task: SweepTask, parts: Parts, storage: Storage, finished: Iterable[Trial]) -> set[str]:
    """Store the report and its files, and return their names; a failure does not fail the sweep."""
    stored: set[str] = set()
    try:
        for name, path in parts.files(task, finished):
            with path.open("rb") as file:
                storage.write(task.prefix + name, file)
            stored.add(name)
    except Exception as error:  # whatever a picture of any numbers may raise
        say(f"report and pictures are not stored: {error!r}")
    return stored


def _warm_start(task: SweepTask, storage: Storage) -> list[Known]:
    """The finished trials of other sweeps, in the order in which these are named."""
    trials: list[Known] = []
    for prefix in task.warm_start:
        records = _patiently(partial(journal.read, storage, f"{prefix}{contract.JOURNAL_NAME}/"))
        if not records:
            message = f"spec.algorithm.warmStartFrom: no trial is in the journal below {prefix}"
            raise InvalidSpec(f"{message}; name a sweep that has run, or leave it out", "WarmStartNotFound")
        trials += [trial.view for trial in Trials(task, records).finished.values()]
    if task.warm_start:
        say(f"known trials of other sweeps: {len(trials)}")
    return trials


def _crashes(storage: Storage, prefix: str) -> int:
    """Count one more crash of this sweep's coordinators; return how many there were within the last hour."""
    uri, now = prefix + _CRASHES_NAME, time.time()
    try:
        times_before = json.loads(storage.read(uri))
    except StorageError as error:
        if error.transient:
            raise
        times_before = []
    times = [crashed for crashed in times_before if isinstance(crashed, float) and now - crashed < _CRASHES_SECONDS]
    storage.write(uri, json.dumps([*times, now]).encode())
    return len(times) + 1


def _so_far(task: SweepTask, storage: Storage, crash: str) -> SweepSummary:
    """Return the summary of a sweep that no coordinator can continue."""
    uri = f"{task.prefix}{contract.JOURNAL_NAME}/"
    try:
        trials = Trials(task, journal.read(storage, uri))
        summary = structs.replace(trials.summary(trials.now), running=0)
    except StorageError:
        raise
    except Exception:  # It may be the journal that they all stumble over.
        summary = SweepSummary(FAILED, "", "")
    what = f"its coordinator crashed {CRASHES} times within an hour, the last time by {crash[:_CRASH_LIMIT]}"
    remedy = f"this is a bug of Ultramarine: please report it with the pod's log; all ended trials are in {uri}"
    message = f"{what}; {remedy}"
    return structs.replace(summary, outcome=FAILED, reason="CoordinatorCrashed", message=message, exit_code=0, pod="")


def _patiently(step: Callable[[], T]) -> T:
    """Do `step`, again and again while the storage does not answer."""
    return patiently(step, repeat(2.0), lambda error, wait: say(f"{error.message}; trying again in {wait:g} s"))


def _storage(environment: Mapping[str, str]) -> Storage:
    endpoint = environment.get(contract.ENV_STORAGE_ENDPOINT, "")
    return Storage(endpoint, environment.get(contract.ENV_STORAGE_REGION, ""))


def _leave(recorder: Recorder, signum: int, frame: object) -> None:
    """Go at once: all that anybody was told of is in the journal. MLflow has a second to hear of it."""
    recorder.kill()
    os._exit(128 + signum)


SECONDS = 30.0  # for all of it


def prune(
    storage: Storage, prefix: str, kept: Collection[str], say: Callable[[str], None], seconds: float = SECONDS
) -> None:
    """Delete all that trials have stored below a sweep's prefix, but the URIs in `kept`; in `seconds`, or not wholly.

    What is stored is found by listing it, so nothing has to be remembered: a later call goes on.
    """
    until, is_over = time.monotonic() + seconds, threading.Event()

    def work() -> None:
        try:
            for uri in _artifacts(storage, f"{prefix}trials/"):
                if time.monotonic() >= until:
                    return
                if uri not in kept:
                    storage.delete_artifact(uri)
        except StorageError as error:
            say(f"outputs of trials that are not among the best stay in the storage: {error.message}")
        is_over.set()

    # Not awaited longer than that: a folder of very many files takes its time, and half of it is never taken for whole.
    thread = threading.Thread(target=work, name="pruning", daemon=True)
    thread.start()
    thread.join(seconds)
    if not is_over.is_set():
        say(f"some outputs of trials that are not among the best stay in the storage: {seconds:g} s were too few")


def _artifacts(storage: Storage, trials: str) -> Iterator[str]:
    """The folders trials/NUMBER/OUTPUT/DIGEST/; a checkpoint lies like an output."""
    for trial in storage.folders(trials):
        for output in storage.folders(trial):
            yield from storage.folders(output)
