"""Manifests of `submit`: from a file of manifests or from a script, with the options of the command line."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import API_VERSION, Manifest

from ultramarine.files.nodes import SyntaxFault, nodes
from ultramarine.files.projects import MAX_STEM, object_name
from ultramarine.files.reading import load
from ultramarine.files.writing import yaml_text
from ultramarine.resources.base import QUANTITY_PATTERN

if TYPE_CHECKING:
    from ultramarine.azureml import Conversion
    from ultramarine.client import Client

RUNS = ("TrainingJob", "Sweep", "PipelineRun")
_INTERPRETERS = {".py": ["python"], ".sh": ["sh"], ".R": ["Rscript"], ".r": ["Rscript"]}
_REQUIREMENTS = "requirements.txt"
_NAMES_FILES = ("-r", "-c", "-e", "--requirement", "--constraint", "--editable")  # beginnings of lines


class Options(NamedTuple):
    """Options of `submit` that change a manifest."""

    name: str
    data: list[str]
    register: str
    env: str
    image: str
    cpu: str
    memory: str
    gpu: int
    set: list[str]
    arguments: list[str]


NONE = Options("", [], "", "", "", "", "", 0, [], [])


def is_run(kind: str) -> bool:
    """Return True for a kind whose objects end by themselves, so that each submission is a new object."""
    return kind in RUNS


def check_arguments(file: Path, arguments: list[str]) -> None:
    """Refuse a second manifest, which would be an argument of the run. Raises InvalidSpec."""
    second = [text for text in arguments if text.endswith((".yml", ".yaml")) and Path(text).exists()]
    if second and file.suffix not in _INTERPRETERS:
        raise InvalidSpec(
            f"submit takes one file, and {second[0]} is another one. Submit one after the other. For an endpoint with"
            " its deployments, run `ultramarine convert azureml FOLDER -o DIR`, then `ultramarine apply DIR/*`."
        )


def manifests_of(
    file: Path, options: Options, note: Callable[[str], None], prefix: Callable[[], str]
) -> list[Manifest]:
    """Return the manifests of a file, changed by the options; losses of an Azure ML file are noted.

    `prefix` returns the namespace's folder in the object storage. Raises InvalidSpec.
    """
    if not file.exists():
        hint = "Run `ultramarine init` to begin a project." if file.name == "ultramarine.yaml" else "Correct the path."
        raise InvalidSpec(f"{file} does not exist. {hint}")
    if file.is_dir():
        raise InvalidSpec(f"{file} is a folder. Name a file in it, such as {file / 'ultramarine.yaml'} or a script.")
    conversion = None if file.suffix in _INTERPRETERS else azureml_conversion(file, note, prefix)
    if conversion is not None:
        manifests = [_new_name(manifest) for manifest in conversion.with_local_paths()]
    else:
        manifests = [script_job(file)] if file.suffix in _INTERPRETERS else read_manifests(file)
    runs = [manifest for manifest in manifests if is_run(str(manifest.get("kind")))]
    if len(runs) != 1 and options != NONE:
        raise InvalidSpec(
            f"{file} has {len(runs)} runs. Options change exactly one; leave them out, or split the file."
        )
    for run in runs:
        _change(run, options, file)
        if file.suffix == ".py" and not options.env and not options.image and (beside := _environment_beside(file)):
            run["spec"].setdefault("environment", beside)
            note(f"The job gets the packages of {file.with_name(_REQUIREMENTS)}; --env chooses others.")
    if conversion is not None:
        _check_uploads(manifests, conversion)
    return manifests


def azureml_conversion(file: Path, note: Callable[[str], None], prefix: Callable[[], str]) -> Conversion | None:
    """Return the conversion of an Azure ML file; None for another file. Raises InvalidSpec for what has no counterpart.

    A file with `kind:` at the beginning of a line is a manifest.
    """
    text = file.read_bytes()
    if re.search(rb"^(kind|apiVersion|\s*\"kind\"):?", text, re.MULTILINE) or b"\0" in text:
        return None
    from ultramarine.azureml import convert, is_azureml, read_table

    if not is_azureml(file):
        return None
    conversion = convert([file], prefix(), read_table(Path.cwd()))
    for converted in conversion.files:
        if converted.refusal:
            raise InvalidSpec(f"{converted.file} {converted.refusal}.")
    if not conversion.manifests:
        schema, remedies = conversion.files[0].schema, [upload.remedy for upload in conversion.uploads]
        remedy = remedies[0] if remedies else "Name it in a job or a deployment, and convert both together"
        raise InvalidSpec(f"{file} is of schema {schema}, which has no object of its own. {remedy}.")
    if mistakes := [str(loss) for loss in conversion.losses if loss.is_mistake]:
        raise InvalidSpec("\n".join(mistakes))
    for loss in conversion.losses:
        note(f"Loss: {loss}")
    return conversion


def _new_name(manifest: Manifest) -> Manifest:
    """Give a run a name with a suffix, since Azure makes a new run of each submission."""
    if is_run(manifest["kind"]):
        name = manifest["metadata"].pop("name")
        manifest["metadata"]["generateName"] = f"{name[: MAX_STEM - 5].rstrip('-')}-"
    return manifest


def _check_uploads(manifests: list[Manifest], conversion: Conversion) -> None:
    """Refuse content that is not on this machine, unless an option has replaced it. Raises InvalidSpec."""
    text = json.dumps(manifests)
    for upload in conversion.uploads:
        if f'"{upload.uri}"' in text:
            name = upload.uri.removesuffix("/").rpartition("/")[2]
            raise InvalidSpec(
                f"{upload.place.file}:{upload.place.line}: {upload.source} is not on this machine. "
                f"Download it as {name}, and give it by --data INPUT=PATH."
            )


def read_manifests(file: Path) -> list[Manifest]:
    """Return the manifests of a YAML or JSON file. Raises InvalidFiles with line and column."""
    manifests = [document.manifest for document in load([file])]
    manifests = [manifest for manifest in manifests if manifest.keys() != {"compute"}]  # the table of `convert`
    for manifest in manifests:
        if "kind" not in manifest:
            raise InvalidSpec(
                f"{file} is not a manifest: a document has no kind. Give apiVersion, kind, metadata, spec."
            )
    return manifests


def script_job(file: Path) -> Manifest:
    """Return the TrainingJob of a script: its folder is the source."""
    stem = object_name(f"{file.resolve().parent.name}-{file.stem}", "run")
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingJob",
        "metadata": {"generateName": f"{stem}-"},
        "spec": {"source": {"path": "."}, "command": [*_INTERPRETERS[file.suffix], file.name]},
    }


def _change(run: Manifest, options: Options, file: Path) -> None:
    if run["kind"] == "PipelineRun" and options._replace(name="", set=[]) != NONE:
        raise InvalidSpec(
            f"{file} has a PipelineRun, which has --name and --set alone. Write other values into its steps."
        )
    meta, spec = run.setdefault("metadata", {}), run.setdefault("spec", {})
    trial = spec.setdefault("trialTemplate", {}).setdefault("spec", {}) if run["kind"] == "Sweep" else spec
    if options.name:
        from ultramarine.serving.deploying import check_name

        check_name("--name", options.name)
        meta.pop("generateName", None)
        meta["name"] = options.name
    if prefix := meta.pop("generateName", ""):
        meta["name"] = f"{prefix}{secrets.token_hex(2)}"
    for item in options.data:
        name, equals, place = item.partition("=")
        if not equals or not name or not place:
            raise InvalidSpec(f"--data {item}: write NAME=PATH or NAME=s3://BUCKET/KEY.")
        entry = trial.setdefault("inputs", {})[name] = _data(place, file.parent)
        if "path" in entry and not Path(place).exists():
            raise InvalidSpec(
                f"--data {item}: {place} does not exist. Correct the path, or write NAME=DATASET@VERSION."
            )
    if options.register:
        trial.setdefault("outputs", {}).setdefault("model", {})["registerAs"] = options.register
    if options.env:
        trial["environment"] = environment_of(options.env)
    if options.image:
        trial["image"] = options.image
    _check_quantity("--cpu", options.cpu, "2 or 500m")
    _check_quantity("--memory", options.memory, "4Gi or 500M")
    resources = trial.setdefault("resources", {}) if options.cpu or options.memory or options.gpu else {}
    if options.cpu:
        resources.setdefault("requests", {})["cpu"] = options.cpu
    if options.memory:
        resources.setdefault("requests", {})["memory"] = options.memory
        resources.setdefault("limits", {})["memory"] = options.memory
    if options.gpu:
        resources.setdefault("limits", {})["nvidia.com/gpu"] = options.gpu
    if options.arguments:
        trial["args"] = [*trial.get("args", []), *options.arguments]
    if file.suffix in _INTERPRETERS:  # a manifest has its outputs
        for output in re.findall(r"\$\(outputs\.([^)]+)\)", " ".join(options.arguments)):
            trial.setdefault("outputs", {}).setdefault(output, {})
    for item in options.set:
        assign(run, item)


def _check_quantity(option: str, text: str, example: str) -> None:
    """Refuse a quantity that Kubernetes does not read. Raises InvalidSpec."""
    if text and not re.fullmatch(QUANTITY_PATTERN, text):
        raise InvalidSpec(f"{option} {text} is not a quantity. Write a number such as {example}.")


def _environment_beside(script: Path) -> Manifest:
    """Return the environment of the requirements.txt beside a script; empty without one."""
    path = script.with_name(_REQUIREMENTS)
    lines = _requirements(path) if path.is_file() else []
    if any(line.startswith(_NAMES_FILES) for line in lines):
        return {"requirementsFile": _REQUIREMENTS}  # of the code, which has the files that the lines name
    return {"requirements": lines} if lines else {}


def _requirements(path: Path) -> list[str]:
    """Return the lines of a requirements.txt, joined and without comments; in a URL a # begins none."""
    joined = re.sub(r"\\\r?\n\s*", "", path.read_text())
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in joined.splitlines())
    return [line for line in lines if line]


def _data(place: str, folder: Path) -> Manifest:
    """Return the input of a URI, of a version of a dataset such as churn@3, or of a local path from the folder on."""
    from ultramarine.resources.dataset import DATASET_REFERENCE

    if place.startswith("s3://"):
        return {"uri": place}
    is_version = re.fullmatch(DATASET_REFERENCE, place) and not Path(place).exists()
    path = place if Path(place).is_absolute() else os.path.relpath(place, folder)
    return {"dataset": place} if is_version else {"path": path}


def environment_of(text: str) -> Manifest:
    """Return the environment of `--env`: packages of a requirements.txt, or a name. Raises InvalidSpec."""
    path = Path(text)
    if not path.exists():
        if "/" in text or text.endswith(".txt"):
            raise InvalidSpec(f"--env {text} does not exist. Give a requirements.txt, or the name of an Environment.")
        return {"name": text}
    return {"requirements": _requirements(path)}


def check_environment(client: Client, environment: Manifest, manifests: Sequence[Manifest] = ()) -> None:
    """Raise NotFound if the Environment that `--env` names neither exists nor is among the manifests of the file."""
    from ultramarine_contract.errors import listed
    from ultramarine_contract.meta import ENVIRONMENT

    from ultramarine.kube.errors import NotFound
    from ultramarine.suggestions import suggest

    name = str(environment.get("name") or "")
    names = [str(m["metadata"].get("name")) for m in manifests if m.get("kind") == ENVIRONMENT.kind]
    if not name or name in names:
        return
    names += [str(item["metadata"]["name"]) for item in client.cluster.list(ENVIRONMENT)]
    if name not in names:
        existing = f"Environments: {listed(sorted(names)) or 'none'}; a path such as requirements.txt works as well."
        raise NotFound(f"no Environment is named {name}. {suggest(name, names, existing)}")


def assign(manifest: Manifest, item: str) -> None:
    """Set one field, as in spec.parameters.rate=0.1; the value is YAML. Raises InvalidSpec."""
    place, equals, text = item.partition("=")
    keys = place.split(".")
    if not equals or not all(keys):
        raise InvalidSpec(f"--set {item}: write a.b.c=VALUE, such as spec.parameters.rate=0.1.")
    try:
        value = next((node.value for node in nodes(text)), None)
    except SyntaxFault:
        value = text
    node: Any = manifest
    for index, key in enumerate(keys[:-1]):
        if isinstance(node, list):
            node = _member(node, key, item)
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        if not isinstance(node, (dict, list)):
            raise InvalidSpec(f"--set {item}: {'.'.join(keys[: index + 1])} is not a group of fields.")
    if isinstance(node, list):
        _member(node, keys[-1], item)
        node[int(keys[-1])] = value
    else:
        node[keys[-1]] = value


def _member(items: list[Any], key: str, item: str) -> Any:
    if not key.isdigit() or int(key) >= len(items):
        raise InvalidSpec(f"--set {item}: {key} is not the number of a member; the list has {len(items)}, from 0.")
    return items[int(key)]


def without_noise(manifest: Manifest) -> Manifest:
    """Return an object without what the server adds for itself."""
    meta = {
        key: value
        for key, value in manifest["metadata"].items()
        if key in ("name", "namespace", "labels", "annotations")
    }
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": meta,
        "spec": manifest.get("spec"),
    }


def show(manifest: Manifest) -> None:
    """Print a manifest as YAML."""
    typer.echo(f"---\n{yaml_text(manifest)}", nl=False)


def check(manifests: list[Manifest], folder: Path) -> None:
    """Refuse manifests of our kinds that are not valid. Raises InvalidSpec with all faults."""
    from ultramarine.files.metadata import is_foreign
    from ultramarine.files.reading import dotted
    from ultramarine.files.validation import faults

    lines = [
        f"{manifest['kind']}: {dotted(fault.path)}: {fault.message}"
        for manifest in manifests
        if not is_foreign(manifest)
        for fault in faults(manifest, folder)
    ]
    if lines:
        raise InvalidSpec("\n".join(lines))


def show_offline(manifests: list[Manifest], folder: Path) -> None:
    """Print manifests that no server has seen, if they are valid. Raises InvalidSpec."""
    check(manifests, folder)
    for manifest in manifests:
        show(manifest)
