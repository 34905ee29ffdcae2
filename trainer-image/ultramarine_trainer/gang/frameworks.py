"""Rendezvous of each framework's processes: the command's environment, and processes beside it.

Nothing here does I/O. Who is who (ranks, addresses, ports, sizes) is always ours: the user's variables are the same in
all pods, so they cannot be right. What only tunes a library (OMPI_MCA_...) is the user's where he set it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ultramarine_contract.common import FRAMEWORK_PORT
from ultramarine_contract.training_records import GangTask

from ultramarine_trainer.gang.member import Epoch

RSH = "ultramarine-rsh"

_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_TORCH_LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
_MPI_LAUNCHERS = ("mpirun", "mpiexec", "orterun")
# By task: the rank is the node's, and not the order of arrival.
_TRACKER = """\
import sys
from xgboost.tracker import RabitTracker
host, port, workers = sys.argv[1:]
tracker = RabitTracker(host_ip=host, port=int(port), n_workers=int(workers), sortby="task")
tracker.start()
tracker.wait_for()
"""


@dataclass(frozen=True)
class Launch:
    """Processes of one node. `companion` is a second process, if any: started before the command, ended with it."""

    command: tuple[str, ...]
    environment: dict[str, str]
    companion: tuple[str, ...] = ()


def launch(task: GangTask, epoch: Epoch, command: Sequence[str], environment: Mapping[str, str]) -> Launch:
    """Say what this node starts in this epoch, of the user's command and the environment that it would get."""
    place = {
        "NODE_RANK": str(epoch.rank),
        "NNODES": str(len(epoch.hosts)),
        "MASTER_ADDR": epoch.hosts[0],
        "MASTER_PORT": str(_port(epoch)),
    }
    plain = Launch(tuple(command), {**environment, **place})
    match task.framework:
        case "torch":
            return _torch(task, epoch, plain)
        case "tensorflow":
            return _tensorflow(epoch, plain)
        case "jax":
            return _jax(epoch, plain)
        case "xgboost":
            return _xgboost(epoch, plain)
        case "mpi":
            return _mpi(task, epoch, plain)
    return plain


def workers_wait(task: GangTask, epoch: Epoch) -> bool:
    """True if this node runs no command of its own, but what rank 0's mpirun sends."""
    return task.framework == "mpi" and epoch.rank > 0


def _torch(task: GangTask, epoch: Epoch, plain: Launch) -> Launch:
    """For `init_process_group("env://")` and for torchrun, which reads PET_...; several processes are torchrun's work.

    With several processes a command that is not Python is left alone: it may be a script that calls torchrun.
    """
    places = plain.environment | {
        "PET_NNODES": str(len(epoch.hosts)),
        "PET_NODE_RANK": str(epoch.rank),
        "PET_NPROC_PER_NODE": str(task.processes),
        "PET_MASTER_ADDR": epoch.hosts[0],
        "PET_MASTER_PORT": str(_port(epoch)),
        # The gang restarts all nodes together, with the new world; torchrun would restart one in the old world.
        "PET_MAX_RESTARTS": "0",
    }
    if task.processes == 1:
        ranks = {
            "RANK": str(epoch.rank),
            "WORLD_SIZE": str(len(epoch.hosts)),
            "GROUP_RANK": str(epoch.rank),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
        }
        return Launch(plain.command, places | ranks)
    if not _is_python(plain.command) or _is_torch_launcher(plain.command):
        return Launch(plain.command, places)
    # The whole command, interpreter and all: so its options stay, and -m and -c work too. Old releases know only the
    # underscore.
    wrapped = (plain.command[0], "-m", "torch.distributed.run", "--no_python", *plain.command)
    return Launch(wrapped, places)


def _tensorflow(epoch: Epoch, plain: Launch) -> Launch:
    """For MultiWorkerMirroredStrategy."""
    workers = [_endpoint(host, _port(epoch)) for host in epoch.hosts]
    document = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": epoch.rank}}
    return Launch(plain.command, plain.environment | {"TF_CONFIG": json.dumps(document)})


def _jax(epoch: Epoch, plain: Launch) -> Launch:
    """For `jax.distributed.initialize`, which (as of 0.10) reads only the address by itself.

    The user passes the rest: `initialize(num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
    process_id=int(os.environ["JAX_PROCESS_ID"]))`.
    """
    places = {
        "JAX_COORDINATOR_ADDRESS": _endpoint(epoch.hosts[0], _port(epoch)),
        "JAX_NUM_PROCESSES": str(len(epoch.hosts)),
        "JAX_PROCESS_ID": str(epoch.rank),
    }
    return Launch(plain.command, plain.environment | places)


def _xgboost(epoch: Epoch, plain: Launch) -> Launch:
    """For `xgboost.collective.CommunicatorContext`, with the tracker of the user's own xgboost (>= 2.1) on rank 0.

    It reads no environment by itself (as of 3.2): the user passes `dmlc_tracker_uri=os.environ["DMLC_TRACKER_URI"]`,
    `dmlc_tracker_port=int(os.environ["DMLC_TRACKER_PORT"])` and `dmlc_task_id=os.environ["DMLC_TASK_ID"]`.
    A worker that is earlier than the tracker tries again by itself.
    """
    workers = len(epoch.hosts)
    # The tracker sorts tasks as texts.
    task_id = str(epoch.rank).zfill(len(str(workers - 1)))
    port = str(_port(epoch))
    places = {
        "DMLC_TRACKER_URI": epoch.hosts[0],
        "DMLC_TRACKER_PORT": port,
        "DMLC_TASK_ID": task_id,
        "DMLC_NUM_WORKER": str(workers),
    }
    python = plain.command[0] if _is_python(plain.command) else "python3"
    tracker = (python, "-c", _TRACKER, epoch.hosts[0], port, str(workers)) if epoch.rank == 0 else ()
    return Launch(plain.command, plain.environment | places, tracker)


def _mpi(task: GangTask, epoch: Epoch, plain: Launch) -> Launch:
    """For Open MPI 4: mpirun on rank 0, which starts its daemons on the others with ultramarine-rsh.

    All is said by environment, so that a command that is mpirun already has the same hosts.
    """
    hosts = ",".join(f"{host}:{task.processes}" for host in epoch.hosts)
    ours = {
        "OMPI_MCA_orte_default_dash_host": hosts,
        "OMPI_MCA_plm_rsh_agent": RSH,
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",  # only rank 0 can reach the others' trainers
        "OMPI_MCA_orte_leave_session_attached": "1",  # a daemon in the background would be ended as a leftover
        "OMPI_MCA_orte_keep_fqdn_hostnames": "1",
    }
    tuning = {
        "SHELL": "/bin/sh",  # mpirun warns of an unknown one, and our user need not be in /etc/passwd
        "OMPI_MCA_orte_tmpdir_base": "/tmp",
        "OMPI_MCA_hwloc_base_binding_policy": "none",  # a pod's processors are given by the kubelet
    }
    for kind in ("oob", "btl"):
        include, exclude = f"OMPI_MCA_{kind}_tcp_if_include", f"OMPI_MCA_{kind}_tcp_if_exclude"
        if exclude not in plain.environment:  # Open MPI takes one of the two
            tuning[include] = "eth0"  # the name that every container runtime gives to a pod's interface
    command = plain.command
    if PurePath(command[0]).name.partition(".")[0] not in _MPI_LAUNCHERS:
        command = ("mpirun", "-np", str(len(epoch.hosts) * task.processes), *command)
    return Launch(command, tuning | plain.environment | ours)


def _port(epoch: Epoch) -> int:
    """Another one in each epoch: the last one's may still be held."""
    return FRAMEWORK_PORT + epoch.number % 100


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_python(command: Sequence[str]) -> bool:
    return _PYTHON.fullmatch(PurePath(command[0]).name) is not None


def _is_torch_launcher(command: Sequence[str]) -> bool:
    """True if the command runs torchrun: as a module or as a script."""
    words = [word for word in command[1:] if word == "-m" or not word.startswith("-")]
    target = words[1] if words[:1] == ["-m"] and words[1:] else "".join(words[:1])
    return PurePath(target).name in _TORCH_LAUNCHERS
