"""The gang: trainers that start, stop and end together. Here they are threads of one process, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec import structs
from ultramarine_contract.training_records import GangTask
from ultramarine_trainer.attempt.child import Signals
from ultramarine_trainer.attempt.runner import Ending, Failed, Part, Persistence, Runner
from ultramarine_trainer.gang import rsh
from ultramarine_trainer.gang.member import Concluded, Epoch, Gang, GangError
from ultramarine_trainer.gang.muster import Muster, Times

T = TypeVar("T")
JOB = "churn"
TIMES = Times(
    heartbeat=0.1, silence=30.0, connect=1.0, retry=0.05, blame=0.3, elastic_wait=0.4, look=0.05, tell=0.2, tick=0.01
)
PATIENCE = 60.0


def never() -> bool:
    return False


def always() -> bool:
    return True


class Job:
    """The trainers of one job; what each of them waits for runs in a thread."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.path = folder / "gang.sock"
        self.port = 0
        self.said: list[str] = []
        self._pool = pool
        self._gangs: list[Gang] = []

    def trainer(self, index: int, task: GangTask, *, identity: str = JOB, times: Times = TIMES) -> Gang:
        """Start a trainer, or the next one of the same place."""
        gang = Gang(task, index, identity, self.said.append, port=self.port, path=self.path, times=times)
        self.port = gang.port
        self._gangs.append(gang)
        return gang

    def trainers(self, task: GangTask) -> list[Gang]:
        return [self.trainer(index, task) for index in range(task.nodes)]

    def do(self, step: Callable[[], T]) -> Future[T]:
        return self._pool.submit(step)

    def join(self, gang: Gang) -> Future[Epoch | None]:
        return self.do(lambda: gang.join(never, never))

    def start(self, *gangs: Gang) -> list[Epoch]:
        """Have all of them join, and return their epochs."""
        epochs = [joining.result(PATIENCE) for joining in [self.join(gang) for gang in gangs]]
        return [epoch for epoch in epochs if epoch]

    def connection(self) -> socket.socket:
        """What any pod of the cluster can open."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def close(self) -> None:
        for gang in reversed(self._gangs):
            gang.close()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with ThreadPoolExecutor(16) as pool:
        job = Job(tmp_path, pool)
        yield job
        job.close()


def gang_task(nodes: int = 3, **fields: Any) -> GangTask:
    return structs.replace(GangTask(framework="torch", nodes=nodes, leader="127.0.0.1"), **fields)


def eventually(reached: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.01)


def muster_of(gang: Gang) -> Muster:
    """Return what node 0 knows of the nodes."""
    assert gang._coordinator is not None
    return gang._coordinator.muster


# The start


def test_all_start_together_with_their_ranks(job: Job) -> None:
    """Nobody starts before the last one is there; then each has its rank and everybody's address."""
    early = [job.trainer(index, gang_task()) for index in (0, 1)]
    joining = [job.join(gang) for gang in early]
    eventually(lambda: any("churn-2" in line for line in job.said))
    assert not any(waiting.done() for waiting in joining)

    late = job.trainer(2, gang_task())
    joining.append(job.join(late))

    epochs = [waiting.result(PATIENCE) for waiting in joining]
    assert epochs == [Epoch(1, rank, ("127.0.0.1",) * 3) for rank in range(3)]


def test_the_log_says_whom_we_wait_for(job: Job) -> None:
    """The nodes are called as their pods are; without a connection it is node 0's name and port."""
    first = job.trainer(0, gang_task(8))
    job.join(first)
    eventually(lambda: job.said)
    assert job.said[0] == "waiting for 7 of 8 nodes: churn-1, churn-2, churn-3, churn-4, churn-5 and 2 more"

    first.close()
    job.said.clear()
    job.do(lambda: job.trainer(1, gang_task(8)).join(lambda: bool(job.said), never))
    eventually(lambda: job.said)
    assert job.said[0] == f"waiting for node 0 at 127.0.0.1, port {job.port}"


def test_a_job_of_one_node_is_a_gang_too(job: Job) -> None:
    """It starts at once, ends by itself, and needs nobody's name."""
    gang = job.trainer(0, gang_task(1, leader=""))

    assert job.start(gang) == [Epoch(1, 0, ("127.0.0.1",))]
    assert gang.succeeded(never)


def test_who_is_stopped_while_it_waits_gives_up(job: Job) -> None:
    """A SIGTERM before the start ends the wait."""
    assert job.trainer(0, gang_task()).join(always, never) is None


def test_a_port_that_is_taken_is_an_error_with_a_remedy(job: Job) -> None:
    """The user's own server may be on it."""
    with socket.create_server(("", 0)) as taken:
        job.port = taken.getsockname()[1]
        with pytest.raises(GangError, match=f"cannot listen on port {job.port} .* leave both to the trainer"):
            job.trainer(0, gang_task())


# Failures


def test_one_failure_is_the_cause_and_the_others_are_echoes(job: Job) -> None:
    """The first to fail is the cause; those that fail because of it are not, and all learn which one it was."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)

    cause = job.do(lambda: gangs[2].failed(3))
    eventually(lambda: muster_of(gangs[0])._failed)
    echo = job.do(lambda: gangs[1].failed(1))

    assert cause.result(PATIENCE)
    assert not echo.result(PATIENCE)
    assert gangs[0].broken.wait(PATIENCE)
    assert gangs[0].why == "node 2 exited with code 3"


@pytest.mark.parametrize(("code", "words"), [(-9, "was killed by SIGKILL"), (137, "exited with code 137")])
def test_who_was_killed_is_the_cause_even_if_another_reports_first(job: Job, code: int, words: str) -> None:
    """A node that is out of memory is noticed by its peers before its own trainer has reported it."""
    times = replace(TIMES, blame=PATIENCE)  # it is not needed when all nodes have ended
    gangs = [job.trainer(index, gang_task(), times=times) for index in range(3)]
    job.start(*gangs)

    success = job.do(lambda: gangs[2].succeeded(never))
    echo = job.do(lambda: gangs[0].failed(1))
    eventually(lambda: muster_of(gangs[0])._failed and muster_of(gangs[0])._succeeded)
    cause = job.do(lambda: gangs[1].failed(code))

    assert cause.result(PATIENCE)
    assert not echo.result(PATIENCE)
    assert not success.result(PATIENCE)
    assert gangs[2].broken.wait(PATIENCE)
    assert gangs[2].why == f"node 1 {words}"


def test_a_failure_after_the_judgement_is_an_echo(job: Job) -> None:
    """Who fails while it is being stopped is not to blame."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)
    assert gangs[0].failed(1)
    assert gangs[1].broken.wait(PATIENCE)

    assert not gangs[1].failed(143)


def test_a_signal_without_a_name_is_told_by_its_number(job: Job) -> None:
    """Real-time signals have none."""
    gangs = job.trainers(gang_task(2))
    job.start(*gangs)

    assert gangs[1].failed(-(signal.SIGRTMIN + 5))
    assert gangs[0].broken.wait(PATIENCE)
    assert gangs[0].why == f"node 1 was killed by signal {signal.SIGRTMIN + 5}"


def test_after_a_failure_all_start_again_in_a_new_epoch(job: Job) -> None:
    """The cause may be a passing one: then all join again and get a greater number."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)
    gangs[1].failed(1)

    assert job.start(*gangs) == [Epoch(2, rank, ("127.0.0.1",) * 3) for rank in range(3)]
    assert not any(gang.broken.is_set() for gang in gangs)


def test_a_lost_node_breaks_the_epoch_and_its_next_pod_starts_the_next(job: Job) -> None:
    """The others stop at once, wait, and start with the newcomer."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)

    gangs[1].close()
    assert gangs[0].broken.wait(PATIENCE)
    assert gangs[2].broken.wait(PATIENCE)
    assert gangs[2].why == "node 1 was lost"

    epochs = job.start(gangs[0], job.trainer(1, gang_task()), gangs[2])
    assert [(epoch.number, epoch.rank) for epoch in epochs] == [(2, 0), (2, 1), (2, 2)]


def test_a_node_that_is_silent_is_lost(job: Job) -> None:
    """A pod whose machine is gone closes no connection."""
    first = job.trainer(0, gang_task(2), times=replace(TIMES, silence=2.0))
    joining = job.join(first)
    eventually(lambda: muster_of(first)._ready)
    with job.connection() as silent:
        silent.sendall(b'{"kind":"hello","identity":"churn","index":1,"last":0}\n{"kind":"ready"}\n')
        assert joining.result(PATIENCE)

        assert first.broken.wait(PATIENCE)
        assert first.why == "node 1 was lost"


def test_the_others_rejoin_a_new_coordinator(job: Job) -> None:
    """When pod 0 is replaced, its successor learns from the others how far the job is."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)
    gangs[2].failed(1)
    job.start(*gangs)

    gangs[0].close()
    assert gangs[1].broken.wait(PATIENCE)
    assert gangs[1].why in ("node 0 was lost", "the connection to node 0 was lost")

    epochs = job.start(job.trainer(0, gang_task()), gangs[1], gangs[2])
    assert [(epoch.number, epoch.rank) for epoch in epochs] == [(3, 0), (3, 1), (3, 2)]


# The end


def test_success_waits_for_the_last(job: Job) -> None:
    """Outputs are stored when all commands have ended, and everybody is told when they are."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)

    ends = [job.do(lambda gang=gang: gang.succeeded(never)) for gang in gangs[:2]]  # type: ignore[misc]
    time.sleep(0.1)
    assert not any(end.done() for end in ends)
    assert gangs[2].succeeded(never)
    assert all(end.result(PATIENCE) for end in ends)

    conclusion = job.do(lambda: gangs[1].await_conclusion(never, never))
    time.sleep(0.1)
    assert not conclusion.done()
    gangs[0].conclude()
    gangs[0].close()
    assert conclusion.result(PATIENCE)
    assert gangs[2].await_conclusion(never, never)
    assert not gangs[2].broken.is_set()


def test_who_succeeded_starts_again_with_the_others(job: Job) -> None:
    """A success counts only where all succeed."""
    gangs = job.trainers(gang_task(2))
    job.start(*gangs)
    success = job.do(lambda: gangs[0].succeeded(never))

    assert gangs[1].failed(1)

    assert success.result(PATIENCE) is False
    assert [epoch.number for epoch in job.start(*gangs)] == [2, 2]


def test_who_succeeded_is_not_missed(job: Job) -> None:
    """The pod of a finished node may go while the others finish."""
    gangs = job.trainers(gang_task())
    job.start(*gangs)
    job.do(lambda: gangs[2].succeeded(lambda: gangs[1].broken.is_set()))
    eventually(lambda: muster_of(gangs[0])._succeeded)

    gangs[2].close()

    end = job.do(lambda: gangs[1].succeeded(never))
    assert gangs[0].succeeded(never)
    assert end.result(PATIENCE)


def test_nobody_joins_a_job_that_is_done(job: Job) -> None:
    """A pod that comes late learns it from the coordinator."""
    gangs = job.trainers(gang_task(2))
    job.start(*gangs)
    gangs[1].close()
    gangs[0].conclude()

    with pytest.raises(Concluded):
        job.trainer(1, gang_task(2)).join(never, never)


def test_without_a_coordinator_the_storage_says_that_a_job_is_done(job: Job) -> None:
    """Pod 0 may be gone with its work done: the others, and its own successor, look for the result."""
    job.trainer(0, gang_task(2)).close()

    with pytest.raises(Concluded):
        job.trainer(1, gang_task(2)).join(never, always)
    with pytest.raises(Concluded):
        job.trainer(0, gang_task(2)).join(never, always)


def test_who_awaits_the_conclusion_sees_the_storage_or_a_new_coordinator(job: Job) -> None:
    """Without node 0 the stored result counts; a successor of it that gathers wants all to run again."""
    gangs = job.trainers(gang_task(2))
    job.start(*gangs)
    end = job.do(lambda: gangs[1].succeeded(never))
    assert gangs[0].succeeded(never)
    assert end.result(PATIENCE)
    gangs[0].close()
    time.sleep(0.1)
    assert not gangs[1].broken.is_set()

    again = job.do(lambda: gangs[1].await_conclusion(never, never))
    first = job.trainer(0, gang_task(2))
    assert again.result(PATIENCE) is False
    assert [epoch.number for epoch in job.start(first, gangs[1])] == [2, 2]

    first.close()
    assert gangs[1].await_conclusion(never, always)


# Elastic gangs


def test_an_elastic_gang_starts_with_fewer_and_again_when_one_comes(job: Job) -> None:
    """After a quiet time enough is enough; ranks are dense, and a newcomer is taken in by a new start of all."""
    task = gang_task(4, min_nodes=2)
    gangs = [job.trainer(index, task) for index in (0, 3)]
    assert [(epoch.number, epoch.rank, len(epoch.hosts)) for epoch in job.start(*gangs)] == [(1, 0, 2), (1, 1, 2)]

    newcomer = job.trainer(1, task)
    joining = job.join(newcomer)
    assert gangs[0].broken.wait(PATIENCE)
    assert gangs[0].why == "node 1 came back"

    epochs = [*job.start(*gangs), joining.result(PATIENCE)]
    assert [(epoch.number, epoch.rank, len(epoch.hosts)) for epoch in epochs if epoch] == [
        (2, 0, 3),
        (2, 2, 3),
        (2, 1, 3),
    ]


def test_an_elastic_gang_goes_on_without_a_lost_node(job: Job) -> None:
    """When its pod is not replaced in time, the rest starts again."""
    task = gang_task(3, min_nodes=2)
    gangs = job.trainers(task)
    eventually(lambda: len(muster_of(gangs[0])._connected) == 3)
    job.start(*gangs)
    gangs[1].close()

    assert [(epoch.rank, len(epoch.hosts)) for epoch in job.start(gangs[0], gangs[2])] == [(0, 2), (1, 2)]


def test_an_elastic_gang_needs_its_least_nodes(job: Job) -> None:
    """One of two is not enough, however long it waits."""
    gang = job.trainer(0, gang_task(3, min_nodes=2))
    until = time.monotonic() + 3 * TIMES.elastic_wait

    assert gang.join(lambda: time.monotonic() > until, never) is None


def test_a_newcomer_does_not_disturb_who_is_about_to_finish(job: Job) -> None:
    """When a node of an elastic gang has succeeded already, the end is nearer than a new start."""
    task = gang_task(3, min_nodes=2)
    gangs = [job.trainer(index, task) for index in (0, 1)]
    job.start(*gangs)
    end = job.do(lambda: gangs[0].succeeded(never))
    eventually(lambda: muster_of(gangs[0])._succeeded)

    late = job.join(job.trainer(2, task))
    time.sleep(0.2)
    assert gangs[1].succeeded(never)
    assert end.result(PATIENCE)
    gangs[0].conclude()

    with pytest.raises(Concluded):
        late.result(PATIENCE)


def told() -> tuple[list[tuple[int, str]], Muster]:
    """A muster of three of which two are enough, and what it tells to whom."""
    said: list[tuple[int, str]] = []
    task = gang_task(3, min_nodes=2)
    return said, Muster(task, Times(), lambda index, message: said.append((index, message["kind"])))


def test_an_elastic_gang_waits_for_who_is_alive() -> None:
    """A node that is connected and not ready yet is stopping its command: no time limit leaves it out."""
    said, muster = told()
    for index in range(3):
        muster.came(index, f"10.0.0.{index}", 0, now=0)
    muster.ready(0, now=1)
    muster.ready(1, now=1)

    muster.tick(now=1000)
    assert (0, "start") not in said

    muster.left(2, now=1000)
    muster.tick(now=1000)
    assert (0, "start") not in said
    muster.tick(now=1000 + Times().elastic_wait)
    assert said[-2:] == [(0, "start"), (1, "start")]
    assert muster.running == {0: "10.0.0.0", 1: "10.0.0.1"}


# Strangers


HELLO = {"kind": "hello", "identity": JOB, "index": 1, "last": 0}


@pytest.mark.attack(
    "training/gang-port",
    asset="a job of several nodes",
    threat="somebody talks nonsense, nothing, or in another job's name to the port by which its nodes find each other",
    control="it is hung up on, and the running nodes are not disturbed; who knows the protocol and the job's name "
    "can claim a node's place (see the gaps)",
)
@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: churn-0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\xff\xfe\n",
        b"x" * 1_000_000,
        b'{"kind":' + b'"x' * 500_000 + b"\n",
        b"[" * 30_000 + b"\n",
        b"null\n",
        b"[1]\n",
        b'{"kind":"ready"}\n',
        json.dumps(HELLO | {"identity": "other"}).encode() + b"\n",
        json.dumps(HELLO | {"index": -1}).encode() + b"\n",
        json.dumps(HELLO | {"index": 2}).encode() + b"\n",
        json.dumps(HELLO | {"index": "1"}).encode() + b"\n",
        json.dumps(HELLO | {"last": 10**30}).encode() + b"\n",
        json.dumps(HELLO).encode() + b'\n{"kind":"surrender"}\n',
        json.dumps(HELLO).encode() + b'\n{"kind":"exit","call":"1"}\n',
    ],
    ids=lambda said: said[:40].decode(errors="replace"),
)
def test_nonsense_ends_its_own_connection_only(job: Job, said: bytes) -> None:
    """Whatever a stranger says, it is hung up on, and the gang starts as if nothing had been."""
    gang = job.trainer(0, gang_task(2))
    joining = job.join(gang)
    with job.connection() as stranger, contextlib.suppress(ConnectionError):
        stranger.sendall(said)
        while stranger.recv(65536):
            pass

    assert job.start(job.trainer(1, gang_task(2)))
    assert joining.result(PATIENCE)


@pytest.mark.attack("training/gang-port")
def test_a_running_epoch_is_not_disturbed_by_strangers(job: Job) -> None:
    """Silent connections, resets, and trainers of another job come and go."""
    gangs = job.trainers(gang_task(2))
    job.start(*gangs)
    other = job.trainer(1, gang_task(2), identity="other")

    with contextlib.ExitStack() as open_ones:
        for _ in range(100):
            open_ones.enter_context(job.connection())
        with job.connection() as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert other.join(lambda: bool(job.said), never) is None
        assert not gangs[0].broken.is_set()
        assert not gangs[1].broken.is_set()


@pytest.mark.attack("training/gang-port")
def test_who_only_beats_does_not_keep_a_place(job: Job) -> None:
    """All places for strangers are taken by ones that send heartbeats: a moment later a member gets in."""
    first = job.trainer(0, gang_task(2))
    joining = job.join(first)
    over = threading.Event()

    def beat(stranger: socket.socket) -> None:
        with stranger, contextlib.suppress(OSError):
            while not over.wait(0.2):
                stranger.sendall(b"{}\n")

    beating = [threading.Thread(target=beat, args=(job.connection(),)) for _ in range(64)]
    for thread in beating:
        thread.start()
    try:
        assert job.start(job.trainer(1, gang_task(2)))
        assert joining.result(PATIENCE)
    finally:
        over.set()
        for thread in beating:
            thread.join()


def test_a_half_open_connection_gives_way_to_the_same_nodes_new_one(job: Job) -> None:
    """The pod's successor comes before the machine's silence was noticed."""
    first = job.trainer(0, gang_task(2))
    with job.connection() as gone:
        gone.sendall(json.dumps(HELLO).encode() + b"\n")
        gone.recv(1)

        assert len(job.start(first, job.trainer(1, gang_task(2)))) == 2


# Commands for MPI


def mpi_job(job: Job) -> list[Gang]:
    gangs = job.trainers(gang_task(2, framework="mpi"))
    job.start(*gangs)
    return gangs


def run_rsh(job: Job, *arguments: str) -> Future[int]:
    return job.do(lambda: rsh.main(arguments, {rsh.ENV_SOCKET: str(job.path)}))


@pytest.mark.parametrize("host", ["churn-1", "churn-1.nodes-churn", "127.0.0.1", "somebody@churn-1"])
@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (7, 7), (-15, 143)])
def test_a_line_runs_on_another_node(job: Job, host: str, code: int, exit_code: int) -> None:
    """The words are joined as ssh joins them, and the exit code comes back as a shell would give it."""
    gangs = mpi_job(job)

    ending = run_rsh(job, "-x", "-l", "root", host, "PATH=/bin", "orted", '"a b"')
    assert gangs[1].next_command(never) == 'PATH=/bin orted "a b"'
    gangs[1].command_ended(code)

    assert ending.result(PATIENCE) == exit_code


def test_the_program_itself_asks_the_trainer(job: Job) -> None:
    """As mpirun starts it: a process, the socket's path in its environment."""
    gangs = mpi_job(job)
    program = "import sys; from ultramarine_trainer.gang.rsh import main; sys.exit(main(sys.argv[1:]))"

    with subprocess.Popen(
        [sys.executable, "-c", program, "churn-1", "hostname"], env=os.environ | {rsh.ENV_SOCKET: str(job.path)}
    ) as process:
        assert gangs[1].next_command(never) == "hostname"
        gangs[1].command_ended(5)
        assert process.wait(PATIENCE) == 5


def test_the_longest_line_arrives(job: Job) -> None:
    """What ultramarine-rsh takes, the whole way takes."""
    gangs = mpi_job(job)
    line = "x" * (rsh.LINE_LIMIT - len(json.dumps({"host": "churn-1", "line": ""})) - 1)

    ending = run_rsh(job, "churn-1", line)
    assert gangs[1].next_command(never) == line
    gangs[1].command_ended(0)
    assert ending.result(PATIENCE) == 0

    assert run_rsh(job, "churn-1", line + "x").result(PATIENCE) == rsh.LOST


@pytest.mark.parametrize("host", ["churn-0", "churn-2", "10.9.9.9"])
def test_a_host_that_is_no_other_node_is_refused(job: Job, capsys: pytest.CaptureFixture[str], host: str) -> None:
    """The message says which ones there are."""
    mpi_job(job)

    assert run_rsh(job, host, "true").result(PATIENCE) == rsh.LOST
    assert f"host {host} is not another node of this job; known are 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["churn-1"], ["-l"]])
def test_rsh_needs_a_host_and_a_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A login shell is not on offer."""
    assert rsh.main(arguments, {}) == rsh.LOST
    assert "give a host and a command" in capsys.readouterr().err


def test_rsh_without_a_trainer_says_where_it_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On other nodes, and in other jobs, there is no socket."""
    assert rsh.main(["churn-1", "true"], {rsh.ENV_SOCKET: str(tmp_path / "none")}) == rsh.LOST
    assert "this works on rank 0 of an mpi job only" in capsys.readouterr().err


def test_a_line_on_a_lost_node_ends(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """mpirun must not wait for a daemon that is gone; neither does the node's next pod get its line."""
    gangs = mpi_job(job)
    ending = run_rsh(job, "churn-1", "orted")
    assert gangs[1].next_command(never) == "orted"

    gangs[1].close()

    assert ending.result(PATIENCE) == rsh.LOST
    assert gangs[0].broken.wait(PATIENCE)
    following = job.trainer(1, gang_task(2, framework="mpi"))
    job.start(gangs[0], following)
    soon = time.monotonic() + 0.2
    assert following.next_command(lambda: time.monotonic() > soon) is None


def test_the_workers_are_released_when_rank_0_ends(job: Job) -> None:
    """With MPI the success of rank 0 is the job's."""
    gangs = mpi_job(job)
    waiting = job.do(lambda: gangs[1].next_command(never))

    assert gangs[0].succeeded(never)

    assert waiting.result(PATIENCE) is None
    gangs[0].conclude()
    assert gangs[1].await_conclusion(never, never)


def test_the_workers_wait_ends_with_the_epoch(job: Job) -> None:
    """When rank 0's command fails, all stop and start again."""
    gangs = mpi_job(job)
    waiting = job.do(lambda: gangs[1].next_command(never))

    assert gangs[0].failed(1)

    assert waiting.result(PATIENCE) is None
    assert [epoch.number for epoch in job.start(*gangs)] == [2, 2]


def test_who_is_not_wanted_any_more_waits_for_nobody(job: Job) -> None:
    """A trial that its sweep has ended gives up at once, though the other nodes have not come yet."""
    stop, nobody = threading.Event(), Part((), Path(), {}, lambda line, is_stdout: None, lambda chunk: None, print)
    task = gang_task(2)
    signals, gang = Signals(), job.trainer(0, task)
    persistence = Persistence(None, lambda: None, True, time.monotonic)
    runner = Runner(task, nobody, gang, persistence, Ending(signals, 1.0, never, stop))
    waiting = job.do(runner.run)
    eventually(lambda: any("churn-1" in line for line in job.said))
    stop.set()

    with pytest.raises(Failed, match="its result is no longer needed"):
        waiting.result(PATIENCE)
