"""A pool as its pod runs it: the server without storage keys, and the container beside it that has them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from onnx import TensorProto, helper
from serving_process import Server, environment, serving
from ultramarine_contract.catalogue import CatalogueEntry, pack
from ultramarine_contract.common import CATALOGUE_NAME, ENV_STORAGE_ENDPOINT, ENV_TASK
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.repository.fetching import SOCKET_NAME
from unit.conftest import ObjectStore, eventually


def adder(number: float, width: int = 1) -> bytes:
    """An ONNX model that adds `number` to its one input, a matrix of `width` columns, so that its answers tell it."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "adder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor("c", TensorProto.FLOAT, [width], [float(number)] * width)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def stored(bucket: Path, name: str, content: bytes, version: str = "1", **changes: Any) -> CatalogueEntry:
    """Put a model into the bucket, and return the entry for it."""
    file = bucket / f"{name}-{version}.onnx"
    file.write_bytes(content)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    entry = {"model": name, "version": version, "uri": f"s3://{bucket.name}/{file.name}", "digest": digest}
    return CatalogueEntry(**{**entry, "format": "onnx", **changes})


class PoolServer:
    """The server of a pool, and its catalogue."""

    def __init__(self, server: Server, catalogue: Path, fetcher: subprocess.Popen[str]) -> None:
        self.server, self.fetcher = server, fetcher
        self._catalogue = catalogue

    def catalogue(self, entries: Iterable[CatalogueEntry]) -> None:
        """Give it another catalogue, as the kubelet does: another file in place of the one before."""
        write(self._catalogue, entries)

    def add(self, model: str, value: float = 0.0, **options: Any) -> httpx.Response:
        """Ask a model that adds."""
        path = options.pop("path", f"/v2/models/{model}/infer")
        return self.server.infer([[value]], "x", "FP32", path=path, **options)

    def index(self, **document: Any) -> dict[str, dict[str, str]]:
        """The repository's index by name."""
        answer = httpx.post(f"{self.server.url}/v2/repository/index", json=document, timeout=240)
        return {entry["name"]: entry for entry in answer.json()}

    def metric(self, name: str) -> float:
        """The value of a metric of one sample."""
        match = re.search(rf"^ultramarine_server_{re.escape(name)} (\S+)$", self.server.get("/metrics").text, re.M)
        assert match, f"{name} is not among the metrics"
        return float(match[1])


def write(folder: Path, entries: Iterable[CatalogueEntry]) -> None:
    """Write the catalogue into a folder."""
    folder.mkdir(exist_ok=True)
    beside = folder / "new"
    beside.write_bytes(pack(entries))
    beside.rename(folder / CATALOGUE_NAME)


@contextmanager
def pooling(
    store: ObjectStore, folder: Path, entries: Iterable[CatalogueEntry], *arguments: str, **changes: Any
) -> Iterator[PoolServer]:
    """Run both processes until the block ends; the server listens when it begins."""
    task = ServingTask("", "", "", "", "", **{"auth": "none", "pool_bytes": 2**28, **changes})
    models, catalogue = folder / "models", folder / "catalogue"
    models.mkdir()
    write(catalogue, entries)
    options = ["--model-dir", str(models), "--catalogue-dir", str(catalogue), "--termination-log", str(folder / "log")]
    keys = {ENV_STORAGE_ENDPOINT: store.endpoint, **store.credentials, ENV_TASK: task.to_json()}
    argv = [sys.executable, "-m", "ultramarine_server", "fetch-pool", *options]
    with (
        (folder / "fetcher.log").open("w") as log,
        subprocess.Popen(argv, env=environment() | keys, stdout=log, stderr=log, text=True) as fetcher,
    ):
        try:
            eventually(lambda: (models / SOCKET_NAME).exists())
            with serving(models, task, "--catalogue-dir", str(catalogue), *arguments) as server:
                yield PoolServer(server, catalogue, fetcher)
        finally:
            fetcher.terminate()
