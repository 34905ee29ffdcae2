"""What each framework's processes are told, so that they find each other."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from ultramarine.resources.trainingjob import Framework
from ultramarine_contract.common import FRAMEWORK_PORT
from ultramarine_contract.training_records import GangTask
from ultramarine_trainer.gang.frameworks import launch, workers_wait
from ultramarine_trainer.gang.member import Epoch

FRAMEWORKS = get_args(Framework)
HOSTS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
TRAIN = ("python", "train.py", "--lr", "0.1")
PORT = str(FRAMEWORK_PORT + 1)


def task(framework: str, processes: int = 1) -> GangTask:
    return GangTask(framework=framework, processes=processes, nodes=len(HOSTS), leader="churn-0.nodes-churn")


def epoch(rank: int = 1, number: int = 1, hosts: tuple[str, ...] = HOSTS) -> Epoch:
    return Epoch(number, rank, hosts)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_command_learns_its_place_and_keeps_its_own_variables(framework: str) -> None:
    """NODE_RANK and its like are there for all; what the user gave stays, except for what says who is who."""
    given = {"LR": "0.1", "NODE_RANK": "7", "MASTER_ADDR": "nowhere"}

    got = launch(task(framework), epoch(), TRAIN, given).environment

    assert got["LR"] == "0.1"
    assert {name: got[name] for name in ("NODE_RANK", "NNODES", "MASTER_ADDR", "MASTER_PORT")} == {
        "NODE_RANK": "1",
        "NNODES": "3",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": PORT,
    }


@pytest.mark.parametrize("framework", ["none", "tensorflow", "jax", "xgboost"])
def test_most_commands_start_as_they_are(framework: str) -> None:
    """Environment is all that these frameworks need on each node."""
    got = launch(task(framework), epoch(), TRAIN, {})

    assert got.command == TRAIN
    assert got.companion == ()


def test_each_epoch_has_its_own_port() -> None:
    """A port of the last epoch may still be held; after a hundred it is free again."""
    ports = [launch(task("none"), epoch(number=n), TRAIN, {}).environment["MASTER_PORT"] for n in (1, 2, 101)]

    assert ports == [PORT, str(FRAMEWORK_PORT + 2), PORT]


# torch


def test_torch_with_one_process_a_node_has_its_ranks() -> None:
    """init_process_group("env://") works in the command itself."""
    got = launch(task("torch"), epoch(), TRAIN, {"RANK": "9"})

    assert got.command == TRAIN
    assert {name: got.environment[name] for name in ("RANK", "WORLD_SIZE", "GROUP_RANK")} == {
        "RANK": "1",
        "WORLD_SIZE": "3",
        "GROUP_RANK": "1",
    }
    assert (got.environment["LOCAL_RANK"], got.environment["LOCAL_WORLD_SIZE"]) == ("0", "1")


@pytest.mark.parametrize("processes", [1, 4])
def test_torchrun_finds_its_options_in_the_environment(processes: int) -> None:
    """So `torchrun train.py` is a whole command, and restarts are the gang's."""
    got = launch(task("torch", processes), epoch(), ("torchrun", "train.py"), {})

    assert got.command == ("torchrun", "train.py")
    assert {name: value for name, value in got.environment.items() if name.startswith("PET_")} == {
        "PET_NNODES": "3",
        "PET_NODE_RANK": "1",
        "PET_NPROC_PER_NODE": str(processes),
        "PET_MASTER_ADDR": "10.0.0.1",
        "PET_MASTER_PORT": PORT,
        "PET_MAX_RESTARTS": "0",
    }


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        ("python3", "-u", "train.py"),
        ("/opt/venv/bin/python3.12", "-m", "churn.train"),
        ("python", "-c", "import torch"),
        ("python", "-X", "dev", "train.py", "torchrun"),
    ],
)
def test_python_with_several_processes_runs_under_torchrun_of_the_same_interpreter(command: tuple[str, ...]) -> None:
    """The command stays whole, with the options of its interpreter."""
    got = launch(task("torch", 2), epoch(), command, {})

    assert got.command == (command[0], "-m", "torch.distributed.run", "--no_python", *command)
    assert "RANK" not in got.environment


@pytest.mark.parametrize(
    "command",
    [
        ("torchrun", "train.py"),
        ("python", "-m", "torch.distributed.run", "train.py"),
        ("python3", "-u", "-m", "torch.distributed.launch", "train.py"),
        ("python", "/usr/local/bin/torchrun", "train.py"),
        ("accelerate", "launch", "train.py"),
        ("sh", "run.sh"),
    ],
)
def test_launchers_and_scripts_are_not_wrapped(command: tuple[str, ...]) -> None:
    """They start the processes of a node themselves."""
    assert launch(task("torch", 2), epoch(), command, {}).command == command


# tensorflow, jax, xgboost


def test_tensorflow_has_a_cluster_of_workers() -> None:
    """As MultiWorkerMirroredStrategy reads it."""
    document = json.loads(launch(task("tensorflow"), epoch(), TRAIN, {}).environment["TF_CONFIG"])

    assert document == {
        "cluster": {"worker": [f"{host}:{PORT}" for host in HOSTS]},
        "task": {"type": "worker", "index": 1},
    }


def test_ipv6_addresses_have_brackets_where_a_port_follows() -> None:
    """`fd00::1:29501` would be another address."""
    hosts = ("fd00::1", "fd00::2")

    assert f'"[fd00::1]:{PORT}"' in launch(task("tensorflow"), epoch(hosts=hosts), TRAIN, {}).environment["TF_CONFIG"]
    jax = launch(task("jax"), epoch(hosts=hosts), TRAIN, {}).environment
    assert jax["JAX_COORDINATOR_ADDRESS"] == f"[fd00::1]:{PORT}"
    assert jax["MASTER_ADDR"] == "fd00::1"


def test_jax_knows_its_coordinator() -> None:
    """The address is read by jax itself, the rest is passed by the user."""
    got = launch(task("jax"), epoch(), TRAIN, {}).environment

    assert {name: value for name, value in got.items() if name.startswith("JAX_")} == {
        "JAX_COORDINATOR_ADDRESS": f"10.0.0.1:{PORT}",
        "JAX_NUM_PROCESSES": "3",
        "JAX_PROCESS_ID": "1",
    }


@pytest.mark.parametrize(
    ("command", "python"),
    [(TRAIN, "python"), (("/venv/bin/python3", "train.py"), "/venv/bin/python3"), (("sh", "run.sh"), "python3")],
)
def test_xgboost_has_its_tracker_on_rank_0(command: tuple[str, ...], python: str) -> None:
    """It is the user's own xgboost, beside the command of rank 0 only; all know where it listens."""
    got = [launch(task("xgboost"), epoch(rank), command, {}) for rank in range(3)]

    interpreter, option, program, *arguments = got[0].companion
    assert (interpreter, option, arguments) == (python, "-c", ["10.0.0.1", PORT, "3"])
    compile(program, "tracker", "exec")
    assert got[1].companion == got[2].companion == ()
    assert [{name: one.environment[name] for name in one.environment if "DMLC" in name} for one in got] == [
        {
            "DMLC_TRACKER_URI": "10.0.0.1",
            "DMLC_TRACKER_PORT": PORT,
            "DMLC_TASK_ID": str(rank),
            "DMLC_NUM_WORKER": "3",
        }
        for rank in range(3)
    ]


def test_xgboost_tasks_sort_as_texts_as_their_ranks_do() -> None:
    """The tracker gives ranks in the order of the names: 10 must not come before 9."""
    hosts = tuple(f"10.0.0.{number}" for number in range(1, 13))

    names = [
        launch(task("xgboost"), epoch(rank, hosts=hosts), TRAIN, {}).environment["DMLC_TASK_ID"] for rank in range(12)
    ]

    assert names == sorted(names)
    assert [int(name) for name in names] == list(range(12))


# mpi


def test_mpi_runs_the_command_by_mpirun_on_all_nodes() -> None:
    """Hosts and the way to them are in the environment, where daemons and the user's own mpirun find them."""
    got = launch(task("mpi", 2), epoch(0), ("./solver", "mesh.txt"), {})

    assert got.command == ("mpirun", "-np", "6", "./solver", "mesh.txt")
    assert got.environment["OMPI_MCA_orte_default_dash_host"] == "10.0.0.1:2,10.0.0.2:2,10.0.0.3:2"
    assert got.environment["OMPI_MCA_plm_rsh_agent"] == "ultramarine-rsh"


@pytest.mark.parametrize("program", ["mpirun", "/usr/bin/mpiexec", "mpirun.openmpi", "orterun"])
def test_mpirun_is_not_run_by_mpirun(program: str) -> None:
    """Its own options count, the hosts come by environment."""
    command = (program, "-np", "3", "./solver")

    assert launch(task("mpi"), epoch(0), command, {}).command == command


def test_the_users_tuning_of_open_mpi_counts_and_his_way_to_the_nodes_does_not() -> None:
    """There is no sshd in the other pods, whatever an image says; networks are the user's to choose."""
    given = {
        "OMPI_MCA_plm_rsh_agent": "ssh",
        "OMPI_MCA_btl_tcp_if_exclude": "lo,eth0",
        "OMPI_MCA_oob_tcp_if_include": "net1",
        "OMPI_MCA_hwloc_base_binding_policy": "core",
    }

    got = launch(task("mpi"), epoch(0), TRAIN, given).environment

    assert got == got | given | {"OMPI_MCA_plm_rsh_agent": "ultramarine-rsh"}
    assert "OMPI_MCA_btl_tcp_if_include" not in got


def test_only_the_workers_of_mpi_wait_for_what_rank_0_sends() -> None:
    """Everybody else has the user's command to run."""
    assert [workers_wait(task("mpi"), epoch(rank)) for rank in range(3)] == [False, True, True]
    assert not any(workers_wait(task(framework), epoch(1)) for framework in FRAMEWORKS if framework != "mpi")
