"""Registration of outputs as ModelVersions, exactly once.

The next free number and a create that fails if the name is taken are together a compare-and-swap. Two passes, or two
operators, that both see version 4 as the newest both try to create version 5. One of them is refused, looks again and
finds the version with its maker's uid. So no pass needs to remember what an earlier one did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ultramarine.resources.model import Compile, version_name, version_number
from ultramarine_contract.common import MAX_UNTRUSTED, MAX_UNTRUSTED_NAME, OutputRecord
from ultramarine_contract.meta import API_VERSION, GROUP, Manifest, asked_by

from ..shared.plan import Seen

LABEL_OUTPUT = f"{GROUP}/output"


@dataclass(frozen=True)
class Candidate:
    """An uploaded output that is to become a version of `model`, and where it comes from."""

    output: str
    model: str
    record: OutputRecord
    lineage: Manifest
    compile: Compile | None = None
    trusted: bool = False  # it may run code at loading


@dataclass(frozen=True)
class Maker:
    """Maker of outputs: the label and the uid that mark its versions, and the user who asked for them."""

    namespace: str
    label: str
    uid: str
    requested_by: str = ""


def registered(maker: Maker, seen: Seen) -> dict[str, str]:
    """Return the outputs that have a ModelVersion, with its name."""
    versions: dict[str, str] = {}
    for version in seen.others("ModelVersion"):
        labels = version["metadata"].get("labels") or {}
        if labels.get(maker.label) == maker.uid and labels.get(LABEL_OUTPUT):
            versions[labels[LABEL_OUTPUT]] = version["metadata"]["name"]
    return versions


def to_register(maker: Maker, candidates: Iterable[Candidate], seen: Seen) -> tuple[Manifest, ...]:
    """Return the Models and ModelVersions that do not exist yet."""
    done = registered(maker, seen)
    models = {model["metadata"]["name"]: model for model in seen.others("Model")}
    newest: dict[str, int] = {}
    create: list[Manifest] = []
    for candidate in candidates:
        if candidate.output in done:
            continue
        model = candidate.model
        if model not in models:
            meta = {"name": model, "namespace": maker.namespace, **annotated(maker)}
            create.append({"apiVersion": API_VERSION, "kind": "Model", "metadata": meta, "spec": {}})
        number = newest.get(model, _newest(model, models.get(model), seen)) + 1
        newest[model] = number
        create.append(_model_version(maker, candidate, number))
    return tuple(create)


def _newest(model: str, manifest: Manifest | None, seen: Seen) -> int:
    """Return the highest number ever given: the number of a deleted version is not given again."""
    latest = version_number(((manifest or {}).get("status") or {}).get("latestVersion"))
    numbers = [
        version_number(version["spec"].get("version"))
        for version in seen.others("ModelVersion")
        if version["spec"].get("model") == model
    ]
    return max([latest, *numbers])


def annotated(maker: Maker) -> Manifest:
    """Return the metadata of an object that is made in the name of the maker's user."""
    annotations = asked_by(maker.requested_by)
    return {"annotations": annotations} if annotations else {}


def _model_version(maker: Maker, candidate: Candidate, number: int) -> Manifest:
    output, compile = candidate.record, candidate.compile
    # A command can write its record by itself, so names are cut.
    untrusted = [name[:MAX_UNTRUSTED_NAME] for name in output.untrusted.split(", ") if name][:MAX_UNTRUSTED]
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": version_name(candidate.model, str(number)),
            "namespace": maker.namespace,
            "labels": {maker.label: maker.uid, LABEL_OUTPUT: candidate.output},
            **annotated(maker),
        },
        "spec": {
            "model": candidate.model,
            "version": str(number),
            "uri": output.uri,
            "digest": output.digest,
            "format": {"name": output.format, **({"untrustedTypes": untrusted} if untrusted else {})},
            "lineage": candidate.lineage | ({"requestedBy": maker.requested_by} if maker.requested_by else {}),
            **({"allowCodeExecution": True} if candidate.trusted else {}),
            **({"compile": compile.model_dump(by_alias=True)} if compile and output.format != "onnx" else {}),
        },
    }
