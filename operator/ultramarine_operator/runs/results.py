"""The result of a run: the termination message of its pod or, once the pod is gone, what it stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from ultramarine_contract.errors import StorageError, UltramarineError

from ..shared.plan import Seen
from ..shared.questions import Question, ReadText
from . import waiting
from .views import JobView, PodView

STORAGE_RETRY = timedelta(seconds=15)
GONE = "ObjectNotFound"
FINAL = (GONE, "TooLarge")  # reasons of the storage that no retry changes

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Closing:
    """The Job has ended a moment ago, and no termination message of its pods was seen yet."""

    after: timedelta = timedelta(seconds=1)


@dataclass(frozen=True)
class Unanswered:
    """The storage has not answered yet, or could not."""

    message: str = "not asked yet"
    was_asked: bool = False
    is_transient: bool = True
    after: timedelta = STORAGE_RETRY


@dataclass(frozen=True)
class Lost:
    """No result can be read; `is_stored` if the storage has one that is unreadable."""

    message: str
    is_stored: bool = False


@dataclass(frozen=True)
class Done(Generic[RecordT]):
    """The Job has succeeded with this result."""

    record: RecordT


@dataclass(frozen=True)
class Failed:
    """The Job has failed for good.

    `reason` and `message` are those of the Job. `causes` are the pods that failed by themselves, the first to end
    first; if there are none, all that failed.
    """

    reason: str
    message: str
    causes: tuple[PodView, ...] = ()

    @property
    def missed_deadline(self) -> bool:
        return self.reason == "DeadlineExceeded"


def failed(job: JobView, now: datetime, *, waits_at_deadline: bool = False) -> Failed | Closing | None:
    """Return how a Job has failed for good; None if it has not.

    A pod that Kubernetes kills at the deadline has nothing to say, unless the kind `waits_at_deadline` for its message.
    """
    if (condition := job.failure) is None:
        return None
    reason = str(condition.get("reason") or "JobFailed")
    causes = tuple(job.causes or job.failures)
    is_awaited = reason != "DeadlineExceeded" or waits_at_deadline
    if not causes and is_awaited and job.has_just_ended(now):
        return Closing()
    return Failed(reason, str(condition.get("message") or f"Job {job.name} failed and its pods are gone"), causes)


Outcome = Done[RecordT] | Lost | Unanswered | Closing | Failed


@dataclass(frozen=True)
class ResultReader(Generic[RecordT]):
    """Reads the result of a run as a record.

    `read` raises ValueError for any text that is not a record. `container` writes the termination message; without a
    name any container does. `uri` is the object in the storage.
    """

    read: Callable[[str], RecordT]
    uri: str
    container: str = ""

    @property
    def question(self) -> ReadText:
        return ReadText(self.uri)

    def message(self, pods: Iterable[PodView]) -> RecordT | None:
        """Return the record in the newest termination message of a container that ended well; None without one."""
        for pod in reversed(list(pods)):
            for end in pod.ends:
                if end.exit_code == 0 and self.container in ("", end.container):
                    try:
                        return self.read(end.message)
                    except ValueError:
                        continue
        return None

    def stored(self, seen: Seen) -> Done[RecordT] | Lost | Unanswered:
        """Return the storage's answer to `question`."""
        answer = seen.answers.get(self.question)
        if isinstance(answer, StorageError) and answer.reason in FINAL:
            return Lost(answer.message, answer.reason != GONE)
        if isinstance(answer, UltramarineError):
            is_transient = not isinstance(answer, StorageError) or answer.transient
            return Unanswered(answer.message, was_asked=True, is_transient=is_transient)
        if not isinstance(answer, str):
            return Unanswered()
        try:
            return Done(self.read(answer))
        except ValueError as error:
            return Lost(str(error), is_stored=True)

    def outcome(self, job: JobView, seen: Seen, now: datetime) -> Outcome[RecordT] | None:
        """Return how a Job has ended; None while it goes on."""
        if job.complete is None:
            return failed(job, now)
        record = self._of_pods(job)
        if record is not None:
            return Done(record)
        was_seen = any(pod.has_succeeded and pod.index == 0 for pod in job.pods)
        return self.stored(seen) if was_seen or not job.has_just_ended(now) else Closing()

    def questions(self, job: JobView | None) -> tuple[Question, ...]:
        """Return what to ask for `outcome`: the storage if no pod has the result, or why a pod is lacking.

        Without a Job the storage is asked for what an earlier one left.
        """
        if job is None:
            return (self.question,)
        if waiting.lacks_pods(job):
            return (waiting.question(job),)
        if job.complete is None or self._of_pods(job) is not None:
            return ()
        return (self.question,)

    def _of_pods(self, job: JobView) -> RecordT | None:
        return self.message(pod for pod in job.pods if pod.index == 0)
