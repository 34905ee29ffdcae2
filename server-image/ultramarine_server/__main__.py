"""Commands of the image's pods.

A serving pod runs `fetch` or `fetch-pool`, `serve` and `collect`; beside a container, `relay` in place of `serve`. A
compiling pod runs `fetch`, `compile` and `store`, and a deleting pod runs `delete`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ultramarine_contract import common as contract
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.version_records import CompileRecord, CompileTask, DeleteTask

from ultramarine_server.machine import cpu_limit

Task = TypeVar("Task")


def main() -> int:
    """Run the command and return the exit code. A failure goes to stderr and to the termination log."""
    arguments = _arguments()
    try:
        if arguments.command == "store":
            from ultramarine_server.compiling.compile import store

            verdict = store(_compile_task(), arguments.compiled_dir, os.environ)
            _leave(verdict, arguments.termination_log)
            return 0
        if arguments.command == "compile":
            _limit_threads()
            from ultramarine_server.compiling.compile import compile_model

            verdict = compile_model(_compile_task(), arguments.model_dir, arguments.compiled_dir, cpu_limit())
            print(verdict.to_json().decode(), flush=True)
            return 0
        if arguments.command == "delete":
            from ultramarine_server.repository.storage import delete

            delete(_delete_task(), os.environ)
            return 0
        task = _task()
        if arguments.command == "fetch":
            from ultramarine_server.repository.storage import fetch  # The serving container must not import boto3.

            fetch(task, os.environ, arguments.model_dir, arguments.environment_dir)
            return 0
        if arguments.command == "collect":
            from ultramarine_server.collecting.collector import collect

            return collect(task, os.environ, arguments.captures_dir)
        if arguments.command == "relay":
            from ultramarine_server.collecting.relay import relay

            return relay(task, arguments.port, (arguments.to_host, arguments.to_port), arguments.captures_dir)
        if arguments.command == "fetch-pool":
            from ultramarine_server.repository.storage import fetch_pool

            return fetch_pool(arguments.model_dir, arguments.catalogue_dir, task.pool_bytes)
        _limit_threads()
        from ultramarine_server.serve import Listening, Places, serve

        ports = (arguments.port, arguments.grpc_port)
        listening = Listening(arguments.host, *ports, arguments.linger_seconds, arguments.tls_dir)
        places = Places(
            arguments.model_dir,
            arguments.keys_dir,
            arguments.catalogue_dir,
            arguments.captures_dir,
            arguments.environment_dir,
            arguments.scoring_dir,
        )
        return serve(task, places, listening)
    except UltramarineError as error:
        print(f"ultramarine-server: {error.reason}: {error.message}", file=sys.stderr, flush=True)
        _leave(TerminationRecord(reason=error.reason, message=error.message), arguments.termination_log)
        return 1


def _limit_threads() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        # numpy reads them when it is imported. Without them a small container starts a thread for each CPU of its node.
        os.environ.setdefault(name, str(cpu_limit()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ultramarine-server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download the model of $ULTRAMARINE_TASK and check it")
    pool = commands.add_parser("fetch-pool", help="download the models that the server of a pool requests")
    collect = commands.add_parser("collect", help="store the server's captures, until SIGTERM")
    relay = commands.add_parser("relay", help="pass connections to a container, and capture a sample of its exchanges")
    serve = commands.add_parser("serve", help="serve the downloaded model by the Open Inference Protocol V2")
    compile = commands.add_parser("compile", help="compile the downloaded model, and compare it with the native model")
    store = commands.add_parser("store", help="store the compiled model and the verdict")
    delete = commands.add_parser("delete", help="delete the artifact of $ULTRAMARINE_TASK from the object storage")
    fetch.add_argument("--environment-dir", type=Path, default=Path(contract.ENVIRONMENT_DIR))
    for command in (serve, collect, relay):
        command.add_argument("--captures-dir", type=Path, default=Path(contract.CAPTURES_DIR))
    for command in (fetch, pool, serve, collect, relay, compile, store, delete):
        command.add_argument("--model-dir", type=Path, default=Path(contract.MODEL_DIR))
        command.add_argument("--termination-log", type=Path, default=Path(contract.TERMINATION_LOG))
    for command in (compile, store):
        command.add_argument("--compiled-dir", type=Path, default=Path(contract.COMPILED_DIR))
    for command in (pool, serve):
        command.add_argument("--catalogue-dir", type=Path, default=Path(contract.CATALOGUE_DIR), help="of a pool")
    relay.add_argument("--port", type=int, required=True)
    relay.add_argument("--to-host", required=True, help="address of the pod")
    relay.add_argument("--to-port", type=int, required=True, help="port of the container")
    serve.add_argument("--keys-dir", type=Path, default=Path(contract.KEYS_DIR))
    serve.add_argument("--environment-dir", type=Path, default=Path(contract.ENVIRONMENT_DIR))
    serve.add_argument("--scoring-dir", type=Path, default=Path(contract.SCORING_DIR))
    serve.add_argument("--host", default="", help="address to listen on; by default those of the pod")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--grpc-port", type=int, default=9000, help="0 disables gRPC")
    serve.add_argument("--tls-dir", type=Path, help="folder with tls.crt and tls.key; by default no TLS")
    serve.add_argument("--linger-seconds", type=float, default=5.0, help="time for connected clients after SIGTERM")
    return parser.parse_args()


def _task() -> ServingTask:
    return _read("serving", ServingTask.from_json)


def _compile_task() -> CompileTask:
    return _read("compiling", CompileTask.from_json)


def _delete_task() -> DeleteTask:
    return _read("deleting", DeleteTask.from_json)


def _read(kind: str, read: Callable[[str], Task]) -> Task:
    try:
        return read(os.environ.get(contract.ENV_TASK, ""))
    except ValueError as error:
        message = f"{contract.ENV_TASK} holds no {kind} task ({error}); this image is started by the operator"
        raise UltramarineError(message, "TaskInvalid") from error


def _leave(record: TerminationRecord | CompileRecord, path: Path) -> None:
    try:
        text = record.to_json()
        path.write_text(text if isinstance(text, str) else text.decode())
    except OSError as error:
        print(f"ultramarine-server: cannot write the verdict to {path}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
