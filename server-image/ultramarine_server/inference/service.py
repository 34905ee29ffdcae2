"""Service behind HTTP and gRPC: questions and answers as values, without a transport."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
from ultramarine_contract import errors

import ultramarine_server
from ultramarine_server.errors import BadRequest, LoadError, Problem
from ultramarine_server.inference.running import Runner
from ultramarine_server.models.model import Loaded, Model, TensorSpec
from ultramarine_server.protocol.tensors import DTYPES, Array, Inference, Outputs, Tensor
from ultramarine_server.repository.single import Repository
from ultramarine_server.telemetry import Telemetry

EXTENSIONS = ("binary_tensor_data", "model_repository")

_NO_PREDICT = (
    "this deployment has a scoring script, which answers POST /score; for the protocol, define predict(inputs) in the "
    "script, and spec.signature of the ModelVersion"
)


class Service:
    """Models of a repository, by name and version. All methods raise Problem for an error of the client.

    Clients may load and unload only if the endpoint is `controlled` by keys. Without keys, any client could take a
    model away from the others. A `scripted` service has a scoring script in place of a model.
    """

    def __init__(
        self, repository: Repository, runner: Runner, telemetry: Telemetry, *, controlled: bool, scripted: bool = False
    ) -> None:
        self.telemetry, self.scripted = telemetry, scripted
        self._repository, self._runner, self._controlled = repository, runner, controlled

    @property
    def only(self) -> str:
        """Name of the only model; empty for a pool."""
        return self._repository.only

    def live(self) -> bool:
        """True if the process works."""
        return True

    def ready(self) -> bool:
        """True if the server accepts requests: it has a model, and is neither starting nor draining."""
        return self._repository.ready and not (self.telemetry.starting or self.telemetry.draining)

    @property
    def has_room(self) -> bool:
        """True if a copy of a request may be computed now without making another request wait."""
        return self._runner.has_room

    def model_ready(self, name: str, version: str = "") -> bool:
        """True if this model answers requests, even if the first request has to load it."""
        self.check_name(name, version)
        return self.ready() and self._repository.answers(name)

    def server_metadata(self) -> dict[str, Any]:
        """Return name, version and extensions, as the protocol shows them."""
        return {"name": "ultramarine", "version": ultramarine_server.__version__, "extensions": list(EXTENSIONS)}

    def check_name(self, name: str, version: str = "") -> None:
        """Raise Problem 404 unless the model and version exist."""
        self._repository.check(name, version)

    def find(self, name: str, version: str = "") -> Loaded | Coroutine[Any, Any, Loaded]:
        """Return a model if it is loaded, otherwise a coroutine that loads it."""
        return self._repository.find(name, version)

    async def loaded(self, name: str, version: str = "") -> Loaded:
        """Return a model, after loading it if necessary."""
        loaded = self.find(name, version)
        return loaded if isinstance(loaded, Loaded) else await loaded

    def sole(self) -> Loaded:
        """Return the only model of a server that is not a pool. Raises Problem if the model is unloaded."""
        loaded = self.find(self.only)
        assert isinstance(loaded, Loaded)
        return loaded

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Return all models, or the loaded models, with their state, as the repository extension shows them."""
        return [entry for entry in self._repository.index() if not ready or entry["state"] == "READY"]

    async def load(self, name: str) -> None:
        """Load a model again; the present model serves until then."""
        self._check_control(name)
        try:
            await self._repository.load(name)
        except LoadError as error:
            raise Problem(400, f"model {name!r} cannot be loaded: {error.reason}: {error.message}") from error

    async def unload(self, name: str) -> None:
        """Unload a model; requests in progress still get their answers."""
        self._check_control(name)
        self._repository.unload(name)

    def _check_control(self, name: str) -> None:
        self.check_name(name)
        if not self._controlled:
            raise Problem(403, "loading and unloading need an endpoint with keys; this one has none")

    def ask(self, inference: Inference, request_id: str = "") -> Outputs | Coroutine[Any, Any, Outputs]:
        """Return the requested outputs if the model is quick, otherwise a coroutine of them.

        The inference's version becomes that of the model that answers.
        """
        loaded = self._repository.find(inference.model, inference.version)
        if isinstance(loaded, Loaded):
            return self._ask(loaded, inference, request_id)
        return self._ask_later(loaded, inference, request_id)

    async def _ask_later(self, loading: Awaitable[Loaded], inference: Inference, request_id: str) -> Outputs:
        answer = self._ask(await loading, inference, request_id)
        return answer if isinstance(answer, tuple) else await answer

    def _ask(self, loaded: Loaded, inference: Inference, request_id: str) -> Outputs | Coroutine[Any, Any, Outputs]:
        model, inference.version = loaded.model, loaded.version
        if self.scripted and not model.signature.inputs:
            raise Problem(501, _NO_PREDICT)
        arrays, specs = check_inputs(model, inference.inputs), select_outputs(model, inference.outputs)
        if not self._runner.is_quick(loaded, arrays):
            return self._wait(model, arrays, specs, request_id)
        try:
            return typed(specs, self._runner.run_now(loaded, arrays, [spec.name for spec in specs]))
        except Exception as error:
            raise _failure(error, request_id) from error

    async def infer(self, inference: Inference, request_id: str = "") -> Outputs:
        """Return the requested outputs."""
        answer = self.ask(inference, request_id)
        return answer if isinstance(answer, tuple) else await answer

    async def compute(self, model: Model, request_id: str) -> dict[str, Any]:
        """Return what a model without inputs gives, within the limits."""
        try:
            return await self._runner.run(model, {}, ())
        except Exception as error:
            raise _failure(error, request_id) from error

    async def _wait(
        self, model: Model, arrays: dict[str, Array], specs: Sequence[TensorSpec], request_id: str
    ) -> Outputs:
        try:
            return typed(specs, await self._runner.run(model, arrays, [spec.name for spec in specs]))
        except Exception as error:
            raise _failure(error, request_id) from error


def metadata(loaded: Loaded) -> dict[str, Any]:
    """Return name, versions, platform, inputs and outputs, as the protocol shows them."""
    head = {"name": loaded.name, "versions": [loaded.version], "platform": loaded.platform}
    return head | loaded.model.signature.to_dict()


def check_inputs(model: Model, inputs: Sequence[Tensor]) -> dict[str, Array]:
    """Return the arrays by name, in the model's types. Raises BadRequest for inputs that do not fit the signature."""
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
    """Return the outputs of these names, or all outputs if no name is given."""
    if not names:
        return model.signature.outputs
    specs = {spec.name: spec for spec in model.signature.outputs}
    for name in names:
        if name not in specs:
            raise BadRequest(f"output {name!r} is unknown; this model gives {listed(specs)}")
    return [specs[name] for name in names]


def listed(specs: Mapping[str, TensorSpec]) -> str:
    """Return the first ten specs as text."""
    return errors.listed(f"{name!r} ({spec.datatype or 'any'} {list(spec.shape)})" for name, spec in specs.items())


def typed(specs: Sequence[TensorSpec], results: Mapping[str, Array]) -> Outputs:
    """Return the model's results in the types of its signature."""
    tensors = []
    for spec in specs:
        array, dtype = results[spec.name], DTYPES[spec.datatype]
        tensors.append(Tensor(spec.name, spec.datatype, array if array.dtype is dtype else np.asarray(array, dtype)))
    return tuple(tensors)


def _failure(error: Exception, request_id: str) -> Problem:
    """Return the problem of a failed model. The model is the user's code, so only the log has its exception."""
    if isinstance(error, Problem):
        return error
    print(f"ultramarine-server: request {request_id} failed", file=sys.stderr)
    traceback.print_exception(error)
    return Problem(500, f"the model failed; its log has the reason under request {request_id}")
