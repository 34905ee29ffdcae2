"""Command jobs: the spec of a TrainingJob, also for the trials of a sweep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.commands import (
    MAX_TEXT,
    References,
    argument_list,
    environment_variables,
    moved_installs,
)
from ultramarine.azureml.components import Joined, component_of, joined
from ultramarine.azureml.compute import compute_of, shared_memory
from ultramarine.azureml.context import (
    MAX_NAME,
    MAX_SWEEP,
    Context,
    Names,
    Refused,
    file_name,
    metadata_of,
    object_name,
)
from ultramarine.azureml.data import MODELS, Inputs
from ultramarine.azureml.environments import resolve
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.sources import source_of, writes_outputs

MAX_OUTPUTS, MAX_NODES, MAX_PROCESSES, YEAR = 16, 1000, 256, 31_536_000
RESERVED = frozenset({"attempts", "checkpoints", "logs", "metrics"})
FRAMEWORKS = {"pytorch": "torch", "tensorflow": "tensorflow", "mpi": "mpi", "ray": "none"}
LOST = {
    "services": ("starts no interactive service", "Read the log, or forward a port of the pod"),
    "identity": ("has no counterpart", "Name a ServiceAccount in podTemplate.serviceAccountName if the code needs one"),
    "queue_settings": ("has no counterpart", "Label the object with kueue.x-k8s.io/queue-name"),
    "docker_args": ("has no counterpart", "Use fields of podTemplate"),
    "locations": ("has no counterpart", "Use podTemplate.nodeSelector"),
    "parent_job_name": ("has no counterpart", "Remove it"),
}
# Azure stores what a command writes to ./outputs; .keep lets a command write nothing.
ARTIFACTS = "ln -sfn {folder} outputs && touch outputs/.keep\n{command}"


def job_name(context: Context, fields: Fields, kind: str) -> str:
    """Return a free name for a job: its own, its display name, or that of its folder and file."""
    file = fields.document.file
    generic = file.stem.lower() in ("job", "train", "command", "sweep", "pipeline")
    fallback = f"{file.resolve().parent.name}-{file.stem}" if generic else file.stem
    text = fields.text("name") or fields.text("display_name") or fallback
    name = context.names.free(kind, text, MAX_NAME if kind in ("TrainingJob", "Pipeline") else MAX_SWEEP)
    if "name" in fields and name != fields.text("name"):
        fields.lose("name", f"became {name}", "Refer to the object by this name; `submit` adds a suffix for each run")
    return name


class Run(NamedTuple):
    """Object of a job."""

    kind: str
    name: str
    spec: Manifest


@dataclass(frozen=True)
class Training:
    """Spec of a command, the model that an output is registered as, and name and file of each output by its key."""

    spec: Manifest
    registered: str
    outputs: dict[str, tuple[str, str]]


def convert_job(context: Context, fields: Fields) -> None:
    """Make a TrainingJob of a command job."""
    name = job_name(context, fields, "TrainingJob")
    metadata = metadata_of(fields)
    context.add(fields.document, *job_run(context, fields, name), metadata)


def job_run(context: Context, fields: Fields, name: str) -> Run:
    """Return the TrainingJob of a command job."""
    step = joined(context, fields, component_of(context, fields, "component"))
    return Run("TrainingJob", name, command_spec(context, step, name).spec)


def command_spec(context: Context, step: Joined, name: str) -> Training:
    """Return the spec of a job or step, and close its fields."""
    outer = step.outer
    training = training_spec(context, step.fields, name, step.inputs(), {}, outer)
    limits = outer.section("limits")
    if timeout := limits.whole("timeout", 1, YEAR):
        training.spec["activeDeadlineSeconds"] = timeout
    limits.close()
    outer.close(LOST)
    step.close()
    return training


def training_spec(
    context: Context, fields: Fields, name: str, inputs: Inputs, space: dict[str, str], outer: Fields
) -> Training:
    """Return the spec of a command.

    `outer` is the job itself, the sweep around a trial, or the step of a component. It has the outputs, and fields
    that take precedence. `space` has the names of a sweep's parameters.
    """
    command = fields.text("command")
    if not command:
        raise Refused("has no command. Write one, or convert the file of its component")
    declared = outer.section("outputs")
    outputs, named, registered = _outputs(declared, command)
    values = {("outputs", key): f"$(outputs.{output}){file and f'/{file}'}" for key, (output, file) in named.items()}
    references = References(
        {**inputs.values, **values, **{("search_space", key): f"$(params.{key})" for key in space}},
        frozenset(inputs.unsafe | {f"$(params.{key})" for key, text in space.items() if text}),
    )
    text = references.fill(command).strip()
    names = [
        *(
            f"{key}.{name}"
            for key in ("inputs", "outputs")
            for owner in (outer, fields)
            for name in owner.section(key).keys
        ),
        *(f"search_space.{name}" for name in space),
    ]
    for missing in dict.fromkeys(references.missing):
        fields.lose_expression("command", missing, names)
    if not text or len(text) > MAX_TEXT:
        raise Refused(f"has a command that is empty or longer than {MAX_TEXT} characters. Move it into a script")
    spec: Manifest = {}
    source, folder = source_of(context, _owner(fields, outer, "code"), "code", name)
    if source:
        spec["source"] = source
    packages = resolve(context, _owner(fields, outer, "environment")).reference
    text, environment = moved_installs(fields, text, packages, source is not None)
    if writes_outputs(" ".join((text, *inputs.literals)), folder):
        outputs["artifacts"] = {}
        if "artifacts" in named:  # who reads it finds the folder outputs in it, as in Azure
            folder_name = "$(outputs.artifacts)/outputs"
            text = f"mkdir -p {folder_name}\n" + ARTIFACTS.format(folder=folder_name, command=text)
        else:
            text = ARTIFACTS.format(folder="$(outputs.artifacts)", command=text)
    elif "artifacts" in named and "artifacts" not in outputs:
        del named["artifacts"]
        declared.lose("artifacts", *_unused("artifacts"))
    spec["command"] = argument_list(text, references.unsafe)
    _distribute(spec, fields, outer)
    if inputs.parameters:
        spec["parameters"] = inputs.parameters
    paths = {**inputs.paths, **{key: _as_path(text) for key, text in values.items()}}
    variables = {
        entry["name"]: entry
        for owner in (fields, outer)
        for entry in environment_variables(owner, References(paths), names)
    }
    if variables:
        spec["env"] = [*variables.values()]
    if environment:
        spec["environment"] = environment
    _place(context, spec, fields, outer)
    spec |= {key: part for key, part in (("inputs", inputs.inputs), ("outputs", outputs)) if part}
    return Training(spec, registered, named)


def _owner(fields: Fields, outer: Fields, key: str) -> Fields:
    """Return the fields that have a key: those around take precedence."""
    return outer if key in outer else fields


def _outputs(fields: Fields, command: str) -> tuple[Manifest, dict[str, tuple[str, str]], str]:
    """Return outputs, name and file of each by its key, and the model that an output is registered as."""
    outputs: Manifest = {}
    named: dict[str, tuple[str, str]] = {}
    names, registered = Names(), ""
    for reserved in (*RESERVED, "artifacts"):
        names.free("output", reserved)
    for key in fields.keys:
        output = fields.section(key)
        if not re.search(rf"outputs\.{re.escape(key)}\b", command):
            if key == "artifacts":  # what the command writes to ./outputs
                named[key] = key, ""
            else:
                fields.lose(key, *_unused(key))
            continue
        name = names.free("output", key)
        type = output.text("type").lower()
        outputs[name] = {}
        named[key] = name, file_name(output.text("path") or key) if type == "uri_file" else ""
        model = output.text("name")
        if model and type in MODELS:
            registered = object_name(model)
            outputs[name] = {"registerAs": registered, "format": MODELS[type]}
        elif model:
            output.lose("name", "is not registered as a data asset", "Take the uri of status.outputs")
        if "path" in output:
            output.lose("path", "the output goes to the job's own folder", "Read its place in status.outputs")
        output.close(ignored=("mode", "description", "version"))
    if len(outputs) >= MAX_OUTPUTS:
        raise Refused(f"has {len(outputs)} outputs, and a job takes {MAX_OUTPUTS - 1}. Write several into a folder")
    return outputs, named, registered


def _unused(key: str) -> tuple[str, str]:
    return "no command refers to it, so it was left out", f"Write to ${{{{outputs.{key}}}}} in command"


def _as_path(reference: str) -> str:
    return re.sub(r"\$\(outputs\.([^)]*)\)", r"/mnt/outputs/\1", reference)


def _distribute(spec: Manifest, fields: Fields, outer: Fields) -> None:
    """Set nodes, framework and processes, and let torchrun start a command that only bash can run."""
    distribution = _owner(fields, outer, "distribution").section("distribution")
    resources = _owner(fields, outer, "resources").section("resources")
    nodes = resources.whole("instance_count", 1, MAX_NODES) or 1
    place = _owner(fields, outer, "compute")
    if isinstance(place.take("compute"), dict):
        nodes = place.section("compute").whole("instance_count", 1, MAX_NODES) or nodes
    type = distribution.text("type", "distribution_type").lower().replace("_", "")
    framework = FRAMEWORKS.get(type, "none" if type else "")
    if type == "ray" or (type and type not in FRAMEWORKS):
        distribution.lose("type", f"{type} is not started", "Start it in the command, by NODE_RANK and MASTER_ADDR")
    if type == "mpi":
        distribution.lose(
            "type", "the platform's image has no mpirun", "Build an image as in examples/mpi, and name it"
        )
    processes = distribution.whole("process_count_per_instance", 1, MAX_PROCESSES) or 1
    if type == "tensorflow":
        workers = distribution.whole("worker_count", 1, MAX_NODES)
        if workers and workers != nodes:
            distribution.lose("worker_count", f"{workers} workers became {nodes}, one a node", "Set instance_count")
        if distribution.whole("parameter_server_count", 0, MAX_NODES):
            distribution.lose("parameter_server_count", "no parameter server starts", "Use MultiWorkerMirroredStrategy")
    distribution.close()
    if nodes > 1:
        spec["nodes"] = nodes
    if framework or nodes > 1:
        spec["framework"] = framework or "none"
    if processes > 1 and framework in ("torch", "mpi"):
        spec["processesPerNode"] = processes
        if framework == "torch" and spec["command"][0] == "bash":
            spec["command"] = ["python", "-m", "torch.distributed.run", "--no_python", *spec["command"]]


def _place(context: Context, spec: Manifest, fields: Fields, outer: Fields) -> None:
    """Set resources, and what concerns the pods."""
    resources = _owner(fields, outer, "resources").section("resources")
    place = _owner(fields, outer, "compute")
    compute = compute_of(place, context.computes_of(place), resources)
    pod_template: dict[str, Any] = dict(compute.pod_template)
    if memory := shared_memory(resources):
        pod_template["sharedMemory"] = memory
    if pod_template:
        spec["podTemplate"] = pod_template
    if compute.resources:
        spec["resources"] = compute.resources
    resources.take("instance_count")
    resources.close(LOST)
