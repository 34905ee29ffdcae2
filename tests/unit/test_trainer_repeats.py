"""A failure that repeats: the trainer as a process of its own, one attempt after another, against a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_trainer.attempt.lines import Tail
from ultramarine_trainer.attempt.repeats import QUICK, Repeats
from ultramarine_trainer.attempt.runner import Failed
from unit.test_trainer_run import Pod

MISSING = "echo \"ModuleNotFoundError: No module named 'nosuch'\" >&2; exit 1"


@pytest.fixture
def pod(tmp_path: Path, storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    return Pod(tmp_path, storage.name, bucket)


def test_the_second_failure_alike_is_the_last(pod: Pod) -> None:
    """The first attempt fails with the command's own code, so another follows; the second says that none would help."""
    code, record, _, _ = pod.run("sh", "-c", MISSING)
    assert (code, record.reason) == (1, "CommandFailed")

    code, record, _, _ = pod.run("sh", "-c", MISSING)
    assert (code, record.reason, record.exit_code) == (203, "SameFailureTwice", 1)
    assert record.message == (
        "two attempts in a row failed at once and alike, with exit code 1: "
        "ModuleNotFoundError: No module named 'nosuch'"
    )
    assert record.tail.endswith("No module named 'nosuch'")


def test_each_node_has_its_own_failures(pod: Pod) -> None:
    """Two nodes that fail alike have failed once each."""
    for index in ("0", "1"):
        pod.environment["JOB_COMPLETION_INDEX"] = index
        assert pod.run("sh", "-c", MISSING)[0] == 1


def test_exit_codes_that_are_worth_it_are_tried_again(pod: Pod) -> None:
    """An exit code of worth_retrying gives another attempt."""
    for _ in range(2):
        assert pod.run("sh", "-c", MISSING, worth_retrying=(1,))[0] == 1


def test_a_git_host_that_is_not_there_is_asked_twice(pod: Pod) -> None:
    """The messages of both attempts are equal, without addresses of objects in memory."""
    source = SourceTask(git_url="http://127.0.0.1:1/code.git")
    assert pod.run("true", source=source)[0] == 75
    code, record, _, _ = pod.run("true", source=source)

    assert (code, record.reason) == (203, "SameFailureTwice")
    assert record.message.startswith(
        "two attempts in a row failed at once and alike, with SourceUnreachable: http://127.0.0.1:1/code.git"
    )


def attempts(storage: Storage, bucket: str, *failures: tuple[Failed, str, float]) -> list[str]:
    """Return the verdicts on attempts that fail one after another."""
    repeats = Repeats(storage, f"s3://{bucket}/failed-0.json", (), print)
    return [repeats.judge(failed, words, words, seconds).reason for failed, words, seconds in failures]


FAILURE, AGAIN = Failed(1, "CommandFailed", "command exited with code 1"), ["CommandFailed", "CommandFailed"]


@pytest.mark.parametrize(
    "second",
    [
        (Failed(2, "CommandFailed", "command exited with code 2"), "KeyError: 'a'", 1.0),
        (FAILURE, "KeyError: 'b'", 1.0),
        (FAILURE, "KeyError: 'a'", QUICK),
        (FAILURE, "", 1.0),
    ],
)
def test_what_differs_is_no_repeat(storage: Storage, bucket: str, second: tuple[Failed, str, float]) -> None:
    """Another exit code, another last line, none, or an attempt that has worked for a while is tried again."""
    assert attempts(storage, bucket, (FAILURE, "a\nKeyError: 'a'", 1.0), second) == AGAIN


def test_what_follows_the_error_and_times_are_not_compared(storage: Storage, bucket: str) -> None:
    """Launcher, program and error print another time in each attempt."""
    repeats = Repeats(storage, f"s3://{bucket}/failed-0.json", (), print)
    verdicts = []
    for took in ("3.21", "3.35"):
        tail = Tail()
        for line in ("Traceback (most recent call last):", '  File "train.py", line 1, in <module>'):
            tail.add(line)
        tail.add(f"ModuleNotFoundError: No module named 'foo' after {took} s at 01:00:{took[2:]}")
        tail.add(f"it took {took}")
        verdicts.append(repeats.judge(FAILURE, tail.words, tail.own_line, 1.0).reason)
    assert verdicts == ["CommandFailed", "SameFailureTwice"]


def test_a_time_alone_is_no_failure_to_compare(storage: Storage, bucket: str) -> None:
    """Otherwise all failures of a command whose last line is a time would be equal."""
    assert attempts(storage, bucket, (FAILURE, "it took 3.2 s", 1.0), (FAILURE, "it took 3.4 s", 1.0)) == AGAIN


def test_only_two_in_a_row_count(storage: Storage, bucket: str) -> None:
    """An attempt that failed differently between two equal failures got further."""
    alike, other = (FAILURE, "KeyError: 'a'", 1.0), (FAILURE, "KeyError: 'a'", QUICK)
    assert attempts(storage, bucket, alike, other, alike, alike) == [*AGAIN, "CommandFailed", "SameFailureTwice"]


@pytest.mark.parametrize(
    "line",
    [
        "requests.exceptions.ConnectionError: Max retries exceeded",
        "socket.gaierror: [Errno -3] Temporary failure in name resolution",
        "TimeoutError: timed out",
        "urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>",
        "OSError: [Errno 113] No route to host",
        "urllib.error.HTTPError: HTTP Error 503: Service Unavailable",
        "torch.distributed.DistBackendError: NCCL error",
        "OSError: [Errno 98] Address already in use",
    ],
)
def test_what_may_pass_is_tried_again(storage: Storage, bucket: str, line: str) -> None:
    """Network failures, busy servers and taken devices may pass."""
    assert attempts(storage, bucket, (FAILURE, line, 1.0), (FAILURE, line, 1.0)) == AGAIN


def test_a_signal_a_stop_and_the_storage_are_no_repeats(storage: Storage, bucket: str) -> None:
    """The user's code did not cause them."""
    for failed in (
        Failed(137, "CommandFailed", "command was killed by SIGKILL"),
        Failed(143, "Stopped", "SIGTERM came"),
        Failed(75, "Unreachable", "the storage does not answer"),
    ):
        assert attempts(storage, bucket, (failed, "a", 1.0), (failed, "a", 1.0)) == [failed.reason] * 2


def test_a_storage_that_takes_nothing_changes_no_verdict(storage: Storage) -> None:
    """The failure keeps its verdict, and the log says that the next attempt cannot compare."""
    lines: list[str] = []
    repeats = Repeats(storage, "s3://no-such-bucket/failed-0.json", (), lines.append)
    assert repeats.judge(FAILURE, "KeyError: 'a'", "KeyError: 'a'", 1.0) is FAILURE
    assert lines[0].startswith("the next attempt will not know how this one failed: ")
