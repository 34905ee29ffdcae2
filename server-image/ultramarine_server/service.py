"""What the server does, whatever a request came by: HTTP and gRPC both ask here, in values without a wire."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import ultramarine_server
from ultramarine_server.errors import BadRequest, LoadError, Problem
from ultramarine_server.model import Model
from ultramarine_server.running import Runner
from ultramarine_server.signature import TensorSpec
from ultramarine_server.telemetry import Telemetry
from ultramarine_server.tensors import DTYPES, Array

__all__ = ["EXTENSIONS", "BadRequest", "Inference", "Outputs", "Problem", "Service", "Tensor"]

EXTENSIONS = ("binary_tensor_data", "model_repository")


# Not frozen, as is all that is made anew for each request: to freeze takes more time than to make.


@dataclass(slots=True)
class Tensor:
    """A named array and the protocol's name for its type: one of tensors.DTYPES; BYTES are objects, str or bytes."""

    name: str
    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(slots=True)
class Inference:
    """One question: no `version` stands for the one that is served, no `outputs` for all that the model gives."""

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


Outputs = tuple[Tensor, ...]


class Service:
    """One model, offered by name and version. Everything raises Problem where a client is to be told why not."""

    def __init__(
        self,
        model: Model,
        name: str,
        version: str,
        platform: str,
        runner: Runner,
        telemetry: Telemetry,
        reload: Callable[[], Model] | None = None,
    ) -> None:
        self.name, self.version, self.platform, self.telemetry = name, version, platform, telemetry
        self._model: Model | None = model
        self._runner, self._reload = runner, reload
        self._absence = ""  # why there is no model
        self._loading = asyncio.Lock()  # one at a time: each takes the memory of a whole model

    def live(self) -> bool:
        """Whether the process does its work."""
        return True

    def ready(self) -> bool:
        """Whether new requests are welcome: the model is loaded, and the server is not about to leave."""
        return self._model is not None and not self.telemetry.draining

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model answers requests."""
        self.check_name(name, version)
        return self.ready()

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions, as the protocol shows them."""
        return {"name": "ultramarine", "version": ultramarine_server.__version__, "extensions": list(EXTENSIONS)}

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Name, versions, platform, inputs and outputs, as the protocol shows them."""
        self.check_name(name, version)
        head = {"name": self.name, "versions": [self.version], "platform": self.platform}
        return head | self.model.signature.to_dict()

    @property
    def model(self) -> Model:
        """The loaded model."""
        if self._model is None:
            raise Problem(400, f"model {self.name!r} is not loaded ({self._absence}); it has to be loaded first")
        return self._model

    def check_name(self, name: str, version: str = "") -> None:
        """Let only the one model and version through."""
        if name != self.name:
            raise Problem(404, f"model {name!r} is unknown; this server has {self.name!r}")
        if version not in ("", self.version):
            raise Problem(404, f"version {version!r} of {name!r} is not here; this is {self.version!r}")

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """All models, or those that are ready, with their state, as the repository extension shows them."""
        state = "UNAVAILABLE" if self._model is None else "READY"
        if ready and self._model is None:
            return []
        return [{"name": self.name, "version": self.version, "state": state, "reason": self._absence}]

    async def load(self, name: str) -> None:
        """Load the model from disk again, and leave the one that serves in place until that is done."""
        reload = self._controlled(name)
        try:
            async with self._loading:
                self._model = await asyncio.to_thread(reload)
        except LoadError as error:
            raise Problem(400, f"model {name!r} cannot be loaded: {error.reason}: {error.message}") from error
        self._absence = ""

    async def unload(self, name: str) -> None:
        """Answer no more requests with the model; those that are being answered end well."""
        self._controlled(name)
        self._model, self._absence = None, "unloaded"

    def _controlled(self, name: str) -> Callable[[], Model]:
        self.check_name(name)
        if self._reload is None:  # Whoever may ask without a key shall not take the model away from the others.
            raise Problem(403, "loading and unloading need an endpoint with keys; this one is open to everybody")
        return self._reload

    def ask(self, inference: Inference, request_id: str = "") -> Outputs | Coroutine[Any, Any, Outputs]:
        """Answer with the outputs that were asked for, at once where that takes no waiting, else when awaited."""
        self.check_name(inference.model, inference.version)
        model = self.model
        arrays, specs = check_inputs(model, inference.inputs), select_outputs(model, inference.outputs)
        if not self._runner.is_quick(arrays):
            return self._wait(model, arrays, specs, request_id)
        try:
            return typed(specs, self._runner.run_now(model, arrays, [spec.name for spec in specs]))
        except Exception as error:
            raise _failure(error, request_id) from error

    async def infer(self, inference: Inference, request_id: str = "") -> Outputs:
        """Answer with the outputs that were asked for."""
        answer = self.ask(inference, request_id)
        return answer if isinstance(answer, tuple) else await answer

    async def _wait(
        self, model: Model, arrays: dict[str, Array], specs: Sequence[TensorSpec], request_id: str
    ) -> Outputs:
        try:
            return typed(specs, await self._runner.run(model, arrays, [spec.name for spec in specs]))
        except Exception as error:
            raise _failure(error, request_id) from error


def check_inputs(model: Model, inputs: Sequence[Tensor]) -> dict[str, Array]:
    """Return the arrays by name, in the model's types. Raises BadRequest for what is not the signature's."""
    names = [tensor.name for tensor in inputs]
    specs = {spec.name: spec for spec in model.expected(names)}
    arrays: dict[str, Array] = {}
    for tensor in inputs:
        name = tensor.name
        if name in arrays:
            raise BadRequest(f"input {name!r} is there twice")
        if name not in specs:
            raise BadRequest(f"input {name!r} is unknown; this model takes {listed(specs)}")
        arrays[name] = specs[name].take(tensor.array, tensor.datatype)
    if len(arrays) < len(specs):
        missing = next(name for name in specs if name not in arrays)
        raise BadRequest(f"input {missing!r} is missing; this model takes {listed(specs)}")
    return arrays


def select_outputs(model: Model, names: Sequence[str]) -> Sequence[TensorSpec]:
    """Return the outputs of these names; all when there are none."""
    if not names:
        return model.signature.outputs
    specs = {spec.name: spec for spec in model.signature.outputs}
    for name in names:
        if name not in specs:
            raise BadRequest(f"output {name!r} is unknown; this model gives {listed(specs)}")
    return [specs[name] for name in names]


def listed(specs: Mapping[str, TensorSpec]) -> str:
    """The first ten specs, in words."""
    shown = [f"{name!r} ({spec.datatype or 'any'} {list(spec.shape)})" for name, spec in list(specs.items())[:10]]
    return ", ".join(shown) + (f" and {len(specs) - 10} more" if len(specs) > 10 else "")


def typed(specs: Sequence[TensorSpec], results: Mapping[str, Array]) -> Outputs:
    """Return what the model gave in the types that it said it gives."""
    tensors = []
    for spec in specs:
        array, dtype = results[spec.name], DTYPES[spec.datatype]
        tensors.append(Tensor(spec.name, spec.datatype, array if array.dtype is dtype else np.asarray(array, dtype)))
    return tuple(tensors)


def _failure(error: Exception, request_id: str) -> Problem:
    """The model is the user's code: whatever it raises is its failure, and only its log shows it."""
    if isinstance(error, Problem):
        return error
    print(f"ultramarine-server: request {request_id} failed", file=sys.stderr)
    traceback.print_exception(error)
    return Problem(500, f"the model failed; its log has the reason under request {request_id}")
