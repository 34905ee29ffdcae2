"""Fuzzers of what reads strangers' bytes: `make fuzz MINUTES=5`, or `python tests/security/fuzz.py NAME SECONDS`.

With atheris, which the extra `fuzz` brings, inputs follow what they reach in the code. What ends a target otherwise
than in words is kept in tests/security/seeds/NAME, and `make test` repeats all that is there.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).parent / "seeds"
Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
# Events of Python's audit that no parser has a reason for.
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}
_watched: list[Path] = []  # the folder of what is being read


def target(read: Target) -> Target:
    """Name a target after its function."""
    TARGETS[read.__name__] = read
    return read


class Escape(BaseException):
    """A parser has done what no parser does."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event in FORBIDDEN:
        raise Escape(f"{event}{arguments}")
    if event == "open" and isinstance(arguments[0], str | bytes) and arguments[1] != "r":
        path, flags = Path(os.fsdecode(arguments[0])).resolve(), arguments[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not path.is_relative_to(_watched[0]):
            raise Escape(f"open{arguments}")


@contextmanager
def watched() -> Iterator[Path]:
    """A folder, outside of which nothing may be written, while nothing may be run or connected to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        _watched.append(folder)
        try:
            yield folder
        finally:
            _watched.clear()


@target
def mlmodel(data: bytes) -> None:
    """MLmodel beside a file that it may name."""
    from ultramarine_contract.serving_records import ServingTask
    from ultramarine_server.errors import LoadError
    from ultramarine_server.formats.artifact import ModelFile
    from ultramarine_server.formats.loading import load

    with watched() as folder, suppress(LoadError):
        (folder / "MLmodel").write_bytes(data)
        (folder / "model.ubj").write_bytes(b"{}")
        load(ModelFile(folder, "mlflow"), ServingTask("m", "1", "", "", "mlflow"), 1)


@cache
def _estimator() -> dict[str, bytes]:
    """The members of a good .skops file."""
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = skops.io.dumps(make_pipeline(StandardScaler(), LogisticRegression()).fit([[0.0], [1.0]], [0, 1]))
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@target
def skops_schema(data: bytes) -> None:
    """The description of the objects in a .skops file."""
    from ultramarine_contract.serving_records import ServingTask
    from ultramarine_server.errors import LoadError
    from ultramarine_server.formats.artifact import ModelFile
    from ultramarine_server.formats.loading import load

    members = _estimator() | {"schema.json": data}
    with watched() as folder, suppress(LoadError):
        with zipfile.ZipFile(folder / "model.skops", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        load(ModelFile(folder / "model.skops", "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)


@target
def source_archive(data: bytes) -> None:
    """A tar archive of sources."""
    from ultramarine_contract.source_records import SourceTask
    from ultramarine_trainer.data.credentials import SourceError
    from ultramarine_trainer.data.source import prepare

    def download(_: str, into: Path) -> list[Any]:
        (into / "a.tar").write_bytes(data)
        return [SimpleNamespace(path="a.tar", sha256=sha256(data).hexdigest())]

    with watched() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        try:
            (folder / "secret").write_text("secret")
            with suppress(SourceError):
                prepare(SourceTask(uri="s3://b/a.tar"), folder, folder / "work", SimpleNamespace(download=download))
            if (folder / "secret").read_text() != "secret" or {e.name for e in folder.iterdir()} != {"secret", "work"}:
                raise Escape("the archive has written beside its folder")
        finally:
            del os.environ["TMPDIR"]
            tempfile.tempdir = None


@cache
def _records() -> list[Callable[[Any], Any]]:
    """The readers of what pods have written; what the operator itself has written is read by others."""
    from ultramarine_contract.common import ArtifactManifest
    from ultramarine_contract.routes import EndpointRoutes
    from ultramarine_contract.sweep_records import SweepSummary
    from ultramarine_contract.training_records import CheckpointRecord, Progress, TerminationRecord
    from ultramarine_contract.version_records import CompileRecord

    kinds = (
        ArtifactManifest, CheckpointRecord, CompileRecord, EndpointRoutes, Progress, SweepSummary, TerminationRecord,
    )  # fmt: skip
    return [kind.from_json for kind in kinds]


@target
def records(data: bytes) -> None:
    """A record that a pod has left for the operator, of the kind that the first byte says."""
    readers = _records()
    text = data[1:].decode(errors="replace") if data else ""
    read = readers[data[0] % len(readers) if data else 0]
    with suppress(ValueError):  # The one error that readers of records expect.
        read(text)


@target
def uri(data: bytes) -> None:
    """An address in the storage."""
    from ultramarine_contract.errors import StorageError
    from ultramarine_contract.locations import parse_uri

    with suppress(StorageError):
        parsed = parse_uri(data.decode(errors="surrogateescape"))
        if {"..", "."} & set(parsed.key.split("/")) or "/" in parsed.bucket:
            raise Escape(str(parsed))


@target
def inference(data: bytes) -> None:
    """A request of the protocol, as JSON alone and with tensors behind it, and as rows."""
    from ultramarine_server.errors import BadRequest
    from ultramarine_server.http import score
    from ultramarine_server.protocol import documents

    for length in ("", str(data[0]) if data else "0"):
        with suppress(BadRequest):
            documents.read("m", "1", data, length)
    with suppress(BadRequest):
        score.read(_model(), "m", score.parse(data))


@cache
def _model() -> Any:
    from ultramarine_server.models.model import Signature, TensorSpec

    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
    return SimpleNamespace(signature=signature, expected=lambda names: signature.inputs)


@target
def grpc_inference(data: bytes) -> None:
    """The message of a gRPC request."""
    from google.protobuf.message import DecodeError
    from ultramarine_server.errors import BadRequest
    from ultramarine_server.grpc.stubs.open_inference_pb2 import ModelInferRequest
    from ultramarine_server.grpc.tensors import question

    with suppress(BadRequest, DecodeError):
        question(ModelInferRequest.FromString(data))


@target
def compressed(data: bytes) -> None:
    """A compressed body."""
    from ultramarine_server.errors import Problem
    from ultramarine_server.http.messages import inflate

    for encoding in ("gzip", "deflate"):
        with suppress(Problem):
            inflate(data, encoding, 2**20)


def replay(name: str) -> None:
    """Read all that is kept for a target. Raises what it raises."""
    for seed in sorted((SEEDS / name).iterdir()):
        TARGETS[name](seed.read_bytes())


def by_atheris(name: str, seconds: int) -> None:
    """Fuzz a target of this file; an input that ends it becomes a seed."""
    import atheris

    seeds = SEEDS / name
    seeds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        with atheris.instrument_imports(
            include=["ultramarine_contract", "ultramarine_server", "ultramarine_trainer", "skops"]
        ):
            replay(name)
        limits = [f"-max_total_time={seconds}", "-rss_limit_mb=4096", "-timeout=20", "-max_len=65536"]
        atheris.Setup([sys.argv[0], corpus, str(seeds), *limits, f"-artifact_prefix={seeds}/"], TARGETS[name])
        atheris.Fuzz()


def by_go(seconds: int) -> None:
    """Fuzz the front of the embedded storage; Go keeps its seeds in storage-image/testdata."""
    from ultramarine_cluster.build import environment, go_program

    command = [str(go_program()), "test", "-run", "^$", "-fuzz", "FuzzRequests", "-fuzztime", f"{seconds}s", "."]
    subprocess.run(command, cwd=ROOT / "storage-image", env=os.environ | environment(), check=True)


def by_schema(seconds: int) -> None:
    """Ask a server behind the gateway whatever its OpenAPI page allows, and what it does not."""
    from security.doors import Issuer, opened

    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), Issuer()) as (keyed, _):
        url = f"http://127.0.0.1:{keyed.port}"
        words = ["run", f"{url}/openapi.json", "--url", url, "--header", f"api-key: {keyed.opens['api-key']}"]
        # Of each operation; it has no limit of time.
        words += ["--checks", "not_a_server_error", "--max-examples", str(4 * seconds), "--continue-on-failure"]
        subprocess.run([str(Path(sys.executable).with_name("schemathesis")), *words], check=True, cwd=folder)


def by_mutation(seconds: int) -> None:
    """Change requests without a key here and there, and look whether one is answered; those are kept."""
    from security.doors import Issuer, opened
    from security.test_client import HIDDEN, PATHS, request

    corpus = [*HIDDEN.values(), *(request(path=path) for path in PATHS)]
    chance, end = random.Random(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), Issuer()) as (_, tokened):
        while time.monotonic() < end:
            before, streams = tokened.answered, [_mutated(chance, corpus) for _ in range(50)]
            for data in streams:
                tokened.say(data, seconds=0.02)
            if tokened.answered != before or tokened.ask() != 200:
                for data in streams:
                    (SEEDS / "gateway").mkdir(exist_ok=True)
                    (SEEDS / "gateway" / sha256(data).hexdigest()[:16]).write_bytes(data)
                raise Escape("one of the last 50 requests, kept in seeds/gateway, was answered without a key")


PIECES = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"%2f", b"..", b"0", b"chunked"]


def _mutated(chance: random.Random, corpus: list[bytes]) -> bytes:
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        other = chance.choice(corpus)
        begin = chance.randrange(len(other))
        match chance.randrange(4):
            case 0:
                data[at : at + chance.randint(1, 8)] = b""
            case 1:
                data[at:at] = chance.choice(
                    [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"%2f", b"..", b"0", b"chunked"]
                )
            case 2:
                data[at:at] = other[begin : begin + chance.randint(1, 64)]
            case _:
                data[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(data)


RUNS: dict[str, Callable[[int], None]] = {
    **{name: partial(by_atheris, name) for name in TARGETS},
    "storage": by_go,
    "server": by_schema,
    "gateway": by_mutation,
}


def main() -> None:
    """Fuzz one target, or with `all` each of them in a process of its own, for a number of seconds in all."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    if name != "all":
        RUNS[name](seconds)
        return
    failed = []
    for name in RUNS:
        print(f"fuzzing {name}", flush=True)
        command = [sys.executable, __file__, name, str(max(seconds // len(RUNS), 1))]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    sys.exit(f"findings: {', '.join(failed)}" if failed else 0)


sys.addaudithook(_audit)
if __name__ == "__main__":
    main()
