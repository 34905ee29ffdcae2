"""What the server does, whatever a request came by: HTTP and gRPC both ask here, in values without a wire."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from ultramarine_contract import errors

import ultramarine_server
from ultramarine_server.errors import BadRequest, LoadError, Problem
from ultramarine_server.model import Loaded, Model
from ultramarine_server.repository import Repository
from ultramarine_server.running import Runner
from ultramarine_server.signature import TensorSpec
from ultramarine_server.telemetry import Telemetry
from ultramarine_server.tensors import DTYPES, Array

__all__ = ["EXTENSIONS", "BadRequest", "Inference", "Outputs", "Problem", "Service", "Tensor"]

EXTENSIONS = ("binary_tensor_data", "model_repository")


# Structs, as is all that is made anew for each request: a dataclass takes three times as long to make.


class Tensor(msgspec.Struct, eq=False):
    """A named array and the protocol's name for its type: one of tensors.DTYPES; BYTES are objects, str or bytes."""

    name: str
    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


class Inference(msgspec.Struct, eq=False):
    """One question: no `version` stands for whichever is served, no `outputs` for all that the model gives."""

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)


Outputs = tuple[Tensor, ...]


class Service:
    """The models of a repository, offered by name and version.

    Everything raises Problem where a client is to be told why not. Only where the endpoint is `controlled`, by keys,
    may clients load and unload: whoever may ask without a key shall not take a model away from the others.
    """

    def __init__(self, repository: Repository, runner: Runner, telemetry: Telemetry, *, controlled: bool) -> None:
        self.telemetry = telemetry
        self._repository, self._runner, self._controlled = repository, runner, controlled

    @property
    def only(self) -> str:
        """The name of the one model, or nothing where there can be many."""
        return self._repository.only

    def live(self) -> bool:
        """Whether the process does its work."""
        return True

    def ready(self) -> bool:
        """Whether new requests are welcome: there is what answers them, and it is neither starting nor leaving."""
        return self._repository.ready and not (self.telemetry.starting or self.telemetry.draining)

    @property
    def has_room(self) -> bool:
        """Whether what can be spared may be computed now, without anybody's waiting for it."""
        return self._runner.has_room

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model answers requests, be it after it was loaded for the first of them."""
        self.check_name(name, version)
        return self.ready() and self._repository.answers(name)

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions, as the protocol shows them."""
        return {"name": "ultramarine", "version": ultramarine_server.__version__, "extensions": list(EXTENSIONS)}

    def check_name(self, name: str, version: str = "") -> None:
        """Let only models and versions through that there are."""
        self._repository.check(name, version)

    def find(self, name: str, version: str = "") -> Loaded | Coroutine[Any, Any, Loaded]:
        """Return a model, at once where it is loaded, else when awaited."""
        return self._repository.find(name, version)

    async def found(self, name: str, version: str = "") -> Loaded:
        """Return a model, loaded."""
        found = self.find(name, version)
        return found if isinstance(found, Loaded) else await found

    def sole(self) -> Loaded:
        """Return the one model of a server that has no other; not for a pool. Raises Problem where it is unloaded."""
        found = self.find(self.only)
        assert isinstance(found, Loaded)
        return found

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """All models, or those that are loaded, with their state, as the repository extension shows them."""
        return [entry for entry in self._repository.index() if not ready or entry["state"] == "READY"]

    async def load(self, name: str) -> None:
        """Load a model again, and leave the one that serves in place until that is done."""
        self._check_control(name)
        try:
            await self._repository.load(name)
        except LoadError as error:
            raise Problem(400, f"model {name!r} cannot be loaded: {error.reason}: {error.message}") from error

    async def unload(self, name: str) -> None:
        """Take a model out of memory; requests that are being answered end well."""
        self._check_control(name)
        self._repository.unload(name)

    def _check_control(self, name: str) -> None:
        self.check_name(name)
        if not self._controlled:
            raise Problem(403, "loading and unloading need an endpoint with keys; this one has none")

    def ask(self, inference: Inference, request_id: str = "") -> Outputs | Coroutine[Any, Any, Outputs]:
        """Answer with the outputs that were asked for, at once where that takes no waiting, else when awaited.

        The inference's version becomes that of the model that answers.
        """
        found = self._repository.find(inference.model, inference.version)
        if isinstance(found, Loaded):
            return self._ask(found, inference, request_id)
        return self._ask_later(found, inference, request_id)

    async def _ask_later(self, found: Awaitable[Loaded], inference: Inference, request_id: str) -> Outputs:
        answer = self._ask(await found, inference, request_id)
        return answer if isinstance(answer, tuple) else await answer

    def _ask(self, loaded: Loaded, inference: Inference, request_id: str) -> Outputs | Coroutine[Any, Any, Outputs]:
        model, inference.version = loaded.model, loaded.version
        arrays, specs = check_inputs(model, inference.inputs), select_outputs(model, inference.outputs)
        if not self._runner.is_quick(loaded, arrays):
            return self._wait(model, arrays, specs, request_id)
        try:
            return typed(specs, self._runner.run_now(loaded, arrays, [spec.name for spec in specs]))
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


def metadata(loaded: Loaded) -> dict[str, Any]:
    """Name, versions, platform, inputs and outputs, as the protocol shows them."""
    head = {"name": loaded.name, "versions": [loaded.version], "platform": loaded.platform}
    return head | loaded.model.signature.to_dict()


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
            remedy = "; send each column as an input of its own" if len(inputs) == 1 < len(specs) else ""
            raise BadRequest(f"input {name!r} is unknown; this model takes {listed(specs)}{remedy}")
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
    return errors.listed(f"{name!r} ({spec.datatype or 'any'} {list(spec.shape)})" for name, spec in specs.items())


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
