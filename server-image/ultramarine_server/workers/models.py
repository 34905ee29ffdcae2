"""Model of a format that runs code, in a worker process of the deployment's environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import ultramarine_contract
from ultramarine_contract.common import built

import ultramarine_server
from ultramarine_server.errors import LoadError
from ultramarine_server.models.model import Signature, TensorSpec
from ultramarine_server.models.table import columns_or_inputs
from ultramarine_server.protocol.tensors import Array
from ultramarine_server.workers.processes import Start, Workers, python_of, worker_count
from ultramarine_server.workers.scripts import asked


class WorkerModel:
    """Model in worker processes; its signature is that of the loaded model."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        try:
            facts = msgspec.convert(workers.facts, built(_Facts))
        except msgspec.ValidationError as error:
            workers.close()
            raise LoadError(f"the worker process has reported no signature: {error}", "ModelUnsupported") from error
        self.signature = Signature(facts.inputs, facts.outputs)
        self._taken, self._columns = facts.taken, facts.columns

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Columns, if the request names a column; otherwise the signature's inputs."""
        return columns_or_inputs(self._taken, self._columns, names)

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call the model."""
        return asked(self.workers, inputs, outputs)


class _Facts(msgspec.Struct):
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    taken: tuple[TensorSpec, ...]  # inputs as requests may have them
    columns: tuple[TensorSpec, ...] = ()


def start_model(
    path: Path, format: str, signature: Mapping[str, Any] | None, threads: int, environment: Path, seconds: float
) -> WorkerModel:
    """Load a model in worker processes of an environment. Raises LoadError."""
    # The server's own packages come last in sys.path, behind those of the environment.
    paths = [str(Path(str(package.__file__)).parents[1]) for package in (ultramarine_server, ultramarine_contract)]
    frame = {"path": str(path), "format": format, "signature": signature, "threads": threads, "paths": paths}
    folder = path if path.is_dir() else path.parent
    start = Start(path.name, python_of(environment), folder, frame)
    return WorkerModel(Workers(start, worker_count(), seconds))
