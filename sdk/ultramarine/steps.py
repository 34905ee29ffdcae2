"""Pipelines of Python functions: a function becomes a step, and a function that calls steps becomes a Pipeline.

    @step
    def clean(raw: In, table: Out, rate: float = 0.1): ...

    @step
    def train(table: In, model: Out) -> dict[str, float]: ...  # the result are metrics

    @pipeline
    def churn(raw: In, rate: float = 0.1):
        return {"model": train(table=clean(raw=raw, rate=rate).table).model}

    churn.submit(Client(), raw="s3://lake/raw/", rate=0.2)  # or churn.run(local=True, raw="raw/") on this machine

Outside a pipeline a step is the function that it was. An Out is the path of an empty folder; callers leave it out.
`publish` in a pipeline is a step, too: it moves an alias or a deployment to a registered output.
"""

from __future__ import annotations

import contextvars
import inspect
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints, overload

from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import API_VERSION, PIPELINE, Manifest

if TYPE_CHECKING:
    from .client import Client
    from .runs import Run

_IN, _OUT = "in", "out"
In = Annotated[Path, _IN]  # a folder of data
Out = Annotated[Path, _OUT]  # a folder that the step fills
_TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
# Calls the function in a pod. Its image may lack this package, of which the module needs the names alone.
LAUNCH = """
import importlib, pathlib, sys, types
try:
    import ultramarine.steps
except ImportError:
    package, steps = types.ModuleType("ultramarine"), types.ModuleType("ultramarine.steps")
    steps.step = steps.pipeline = lambda function=None, **options: function or (lambda function: function)
    steps.publish = None
    steps.In = steps.Out = pathlib.Path
    package.steps = steps
    sys.modules |= {"ultramarine": package, "ultramarine.steps": steps}
module, name, *words = sys.argv[1:]
read = {"number": float, "integer": int, "boolean": "true".__eq__, "string": str, "path": pathlib.Path}
values = {key: read[kind](text) for key, kind, text in (word.split(":", 2) for word in words)}
sys.path.insert(0, ".")
function = getattr(importlib.import_module(module), name)
for metric, value in (getattr(function, "function", function)(**values) or {}).items():
    print(f"{metric}={value}", flush=True)
"""
_calls: contextvars.ContextVar[_Recorder | _Worker | None] = contextvars.ContextVar("calls", default=None)


@dataclass(frozen=True)
class Result:
    """Result of a step's call: outputs as attributes, and metrics by name; references while a pipeline is built."""

    name: str
    outputs: Mapping[str, Any]
    metrics: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in self.outputs:
            return self.outputs[name]
        existing = ", ".join(self.outputs) or "none"
        raise AttributeError(f"step {self.name} has no output {name!r}. Its outputs: {existing}.")


class _Metrics(dict[str, str]):
    """References to metrics, of which only the end of a step knows which there are."""

    def __init__(self, step: str) -> None:
        self._step = step

    def __missing__(self, name: str) -> str:
        return f"$(steps.{self._step}.metrics.{name})"


@dataclass(frozen=True)
class StepFunction:
    """Function that is a step; `options` are fields of the step, and `job` fields of its TrainingJob."""

    function: Callable[..., Any]
    fields: Mapping[str, Any] = field(default_factory=dict)

    def options(self, **fields: Any) -> StepFunction:
        """Return the step with other fields, such as when, retries or resources."""
        return StepFunction(self.function, {**self.fields, **fields})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls = _calls.get()
        if calls is None:
            return self.function(*args, **kwargs)
        if args:
            raise InvalidSpec(f"step {self.function.__name__}: call it with names, such as raw=raw, in a pipeline")
        return calls.call(self, kwargs)

    @property
    def kinds(self) -> dict[str, str]:
        """Return the kind of each argument: in, out, or the type of a parameter. Raises InvalidSpec."""
        return _kinds(self.function)


@dataclass(frozen=True)
class PipelineFunction:
    """Function that is a pipeline: it calls steps, and returns outputs by name."""

    function: Callable[..., Any]
    name: str

    def manifest(self) -> Manifest:
        """Return the Pipeline; its steps have the folder of their module as source, which a client uploads."""
        parameters: Manifest = {}
        for name, kind in _kinds(self.function).items():
            default = inspect.signature(self.function).parameters[name].default
            declared = {"type": "uri" if kind == _IN else kind}
            parameters[name] = declared if default is inspect.Parameter.empty else {**declared, "default": default}
        recorder = _Recorder()
        outputs = _within(recorder, self.function, {name: f"$(params.{name})" for name in parameters})
        spec = {"parameters": parameters, "steps": recorder.steps, "outputs": dict(outputs or {})}
        kept = {name: value for name, value in spec.items() if value}
        return {"apiVersion": API_VERSION, "kind": PIPELINE.kind, "metadata": {"name": self.name}, "spec": kept}

    def submit(self, client: Client, **values: Any) -> Run:
        """Apply the Pipeline, start a run with these parameters, and return the run."""
        from .runs.pipelines import run_manifest

        client.platform.check()  # before anything is applied
        client.apply(self.manifest())
        return client.submit(run_manifest(self.name, "", values))

    def run(
        self,
        client: Client | None = None,
        /,
        *,
        local: bool = False,
        folder: str | Path | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Run the pipeline to its end, and return its outputs. Raises RunFailed.

        `local` calls the steps one after another on this machine. Their outputs are then folders below `folder`, by
        default a temporary one. Caching, retries, conditions and publishing are the cluster's.
        """
        if not local:
            from .client import Client

            return dict(self.submit(client or Client(), **values).wait().outputs)
        worker = _Worker(Path(folder or tempfile.mkdtemp(prefix=f"{self.name}-")))
        kinds = _kinds(self.function)
        given = {key: worker.folder_of(key, value) if kinds.get(key) == _IN else value for key, value in values.items()}
        return dict(_within(worker, self.function, given) or {})


@overload
def step(function: Callable[..., Any]) -> StepFunction: ...


@overload
def step(**fields: Any) -> Callable[[Callable[..., Any]], StepFunction]: ...


def step(function: Callable[..., Any] | None = None, **fields: Any) -> Any:
    """Make a function a step; `fields` are those of a step or of its job, such as retries, image or resources."""
    return StepFunction(function, fields) if function else lambda function: StepFunction(function, fields)


@overload
def pipeline(function: Callable[..., Any]) -> PipelineFunction: ...


@overload
def pipeline(*, name: str) -> Callable[[Callable[..., Any]], PipelineFunction]: ...


def pipeline(function: Callable[..., Any] | None = None, *, name: str = "") -> Any:
    """Make a function that calls steps a pipeline, under its own name or another."""

    def made(function: Callable[..., Any]) -> PipelineFunction:
        return PipelineFunction(function, name or _dashed(function.__name__))

    return made(function) if function else made


def publish(version: Any, **fields: Any) -> None:
    """Move an alias or a deployment to a version, such as the registered output of a step; a step of a pipeline.

    `fields` are those of `publish`, such as model and alias, or of the step, such as when. A run on this machine
    publishes nothing.
    """
    calls = _calls.get()
    if calls is None:
        raise InvalidSpec("publish is a step. Call it in a function with @pipeline.")
    calls.publish(version, fields)


# ---- Calls of steps

_OF_STEP = ("after", "when", "retries", "timeoutSeconds", "cache", "cacheSalt", "forEach")
_PUBLISH = "publish"


class _Recorder:
    """Steps of a pipeline, in the order of their calls."""

    def __init__(self) -> None:
        self.steps: list[Manifest] = []

    def call(self, step: StepFunction, values: Mapping[str, Any]) -> Result:
        function, kinds = step.function, step.kinds
        name = self._name(_dashed(function.__name__))
        _check(name, kinds, values, function)
        inputs = {_dashed(key): {"uri": str(values[key])} for key, kind in kinds.items() if kind == _IN}
        parameters = {key: values[key] for key, kind in kinds.items() if kind not in (_IN, _OUT) and key in values}
        outputs = [key for key, kind in kinds.items() if kind == _OUT]
        file = Path(inspect.getsourcefile(function) or "")
        if not file.is_file():
            raise InvalidSpec(
                f"step {name}: function {function.__name__} is not in a file, which pods need. "
                "Begin the notebook's cell with %%writefile NAME.py, and import the function from NAME."
            )
        job: Manifest = {
            "source": {"path": str(file.resolve().parent)},
            "command": ["python", "-c", LAUNCH, file.stem, function.__name__],
            "args": [_word(key, kinds[key]) for key in kinds if kinds[key] == _OUT or key in values],
            **({"parameters": parameters} if parameters else {}),
            **({"inputs": inputs} if inputs else {}),
            **({"outputs": {_dashed(output): {} for output in outputs}} if outputs else {}),
        }
        self._add(name, "trainingJob", job, step.fields)
        references = {output: f"$(steps.{name}.outputs.{_dashed(output)})" for output in outputs}
        return Result(name, references, _Metrics(name))

    def publish(self, version: Any, fields: Mapping[str, Any]) -> None:
        self._add(self._name(_PUBLISH), _PUBLISH, {"version": str(version)}, fields)

    def _name(self, name: str) -> str:
        return _free(name, {str(made["name"]) for made in self.steps})

    def _add(self, name: str, work: str, spec: Manifest, fields: Mapping[str, Any]) -> None:
        """Add a step; `fields` that are not the step's own complete the spec of its work."""
        own = {key: value for key, value in fields.items() if key in _OF_STEP}
        spec |= {key: value for key, value in fields.items() if key not in _OF_STEP}
        self.steps.append({"name": name, **own, work: spec})


class _Worker:
    """Steps that run in this process; `folder` gets their outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: set[str] = set()

    def call(self, step: StepFunction, values: Mapping[str, Any]) -> Result:
        kinds = step.kinds
        name = _free(_dashed(step.function.__name__), self._names)
        self._names.add(name)
        _check(name, kinds, values, step.function)
        outputs = {key: self._emptied(name, key) for key, kind in kinds.items() if kind == _OUT}
        inputs = {key: Path(values[key]) for key, kind in kinds.items() if kind == _IN}
        metrics = step.function(**{**values, **inputs, **outputs}) or {}
        return Result(name, outputs, metrics)

    def publish(self, version: Any, fields: Mapping[str, Any]) -> None:
        """Publish nothing: versions are the cluster's."""

    def folder_of(self, name: str, path: str | Path) -> Path:
        """Return a folder of data, as a pod has it: that of a copy for a single file."""
        path = Path(path)
        if not path.is_file():
            return path
        folder = self._emptied(".inputs", name)
        shutil.copy(path, folder)
        return folder

    def _emptied(self, step: str, name: str) -> Path:
        """Return the folder of a step's output without the files of an earlier run."""
        folder = self.folder / step / _dashed(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _within(calls: _Recorder | _Worker, function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    token = _calls.set(calls)
    try:
        return function(**values)
    finally:
        _calls.reset(token)


def _kinds(function: Callable[..., Any]) -> dict[str, str]:
    """Return the kind of each argument of a function. Raises InvalidSpec for one without a type."""
    hints, kinds = get_type_hints(function, include_extras=True), dict[str, str]()
    for name in inspect.signature(function).parameters:
        hint = hints.get(name)
        metadata = getattr(hint, "__metadata__", ())
        kind = metadata[0] if metadata and metadata[0] in (_IN, _OUT) else _TYPES.get(hint)
        if kind is None:
            types = "In, Out, str, int, float or bool"
            raise InvalidSpec(f"{function.__name__}: argument {name} has no type of a step. Annotate it as {types}.")
        kinds[name] = kind
    return kinds


def _check(name: str, kinds: Mapping[str, str], values: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Raise InvalidSpec for an argument that is missing, unknown or an output."""
    for key in values:
        if kinds.get(key, _OUT) == _OUT:
            raise InvalidSpec(
                f"step {name}: {key} is not an input or a parameter of {function.__name__}. Leave it out."
            )
    for key, parameter in inspect.signature(function).parameters.items():
        if kinds[key] != _OUT and key not in values and parameter.default is inspect.Parameter.empty:
            raise InvalidSpec(f"step {name}: argument {key} of {function.__name__} is missing. Pass {key}=...")


def _word(name: str, kind: str) -> str:
    if kind in (_IN, _OUT):
        return f"{name}:path:$({kind}puts.{_dashed(name)})"
    return f"{name}:{kind}:$(params.{name})"


def _dashed(name: str) -> str:
    return name.replace("_", "-").strip("-").lower()


def _free(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number if it is taken."""
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(free for free in names if free not in taken)
