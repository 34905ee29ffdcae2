"""Making ModelVersions of what was trained, exactly once.

The next free number and the create that fails where a name is taken are together a compare-and-swap: two passes, or
two operators, that both see version 4 as the newest both try to create version 5, and one of them is refused, looks
again and finds the version that carries its maker's uid. So no pass needs to remember what an earlier one did.
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
    trusted: bool = False  # it may run code when it is loaded


@dataclass(frozen=True)
class Maker:
    """Whose outputs they are: the label and the uid by which versions of theirs are known, and who asked for them."""

    namespace: str
    label: str
    uid: str
    requested_by: str = ""


def registered(maker: Maker, seen: Seen) -> dict[str, str]:
    """Output name to the name of the ModelVersion that was made of it."""
    found: dict[str, str] = {}
    for version in seen.others("ModelVersion"):
        labels = version["metadata"].get("labels") or {}
        if labels.get(maker.label) == maker.uid and labels.get(LABEL_OUTPUT):
            found[labels[LABEL_OUTPUT]] = version["metadata"]["name"]
    return found


def to_register(maker: Maker, candidates: Iterable[Candidate], seen: Seen) -> tuple[Manifest, ...]:
    """The Models and ModelVersions that are still to be made."""
    done = registered(maker, seen)
    models = {model["metadata"]["name"]: model for model in seen.others("Model")}
    newest: dict[str, int] = {}
    create: list[Manifest] = []
    for candidate in candidates:
        if candidate.output in done:
            continue
        model = candidate.model
        if model not in models:
            meta = {"name": model, "namespace": maker.namespace, **_annotated(maker)}
            create.append({"apiVersion": API_VERSION, "kind": "Model", "metadata": meta, "spec": {}})
        number = newest.get(model, _newest(model, models.get(model), seen)) + 1
        newest[model] = number
        create.append(_model_version(maker, candidate, number))
    return tuple(create)


def _newest(model: str, known: Manifest | None, seen: Seen) -> int:
    """The highest number ever given: a deleted newest version's number is not given again."""
    told = version_number(((known or {}).get("status") or {}).get("latestVersion"))
    numbers = [
        version_number(version["spec"].get("version"))
        for version in seen.others("ModelVersion")
        if version["spec"].get("model") == model
    ]
    return max([told, *numbers])


def _annotated(maker: Maker) -> Manifest:
    annotations = asked_by(maker.requested_by)
    return {"annotations": annotations} if annotations else {}


def _model_version(maker: Maker, candidate: Candidate, number: int) -> Manifest:
    output, wanted = candidate.record, candidate.compile
    # A command can write its record by itself.
    untrusted = [name[:MAX_UNTRUSTED_NAME] for name in output.untrusted.split(", ") if name][:MAX_UNTRUSTED]
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": version_name(candidate.model, str(number)),
            "namespace": maker.namespace,
            "labels": {maker.label: maker.uid, LABEL_OUTPUT: candidate.output},
            **_annotated(maker),
        },
        "spec": {
            "model": candidate.model,
            "version": str(number),
            "uri": output.uri,
            "digest": output.digest,
            "format": {"name": output.format, **({"untrustedTypes": untrusted} if untrusted else {})},
            "lineage": candidate.lineage | ({"requestedBy": maker.requested_by} if maker.requested_by else {}),
            **({"allowCodeExecution": True} if candidate.trusted else {}),
            **({"compile": wanted.model_dump(by_alias=True)} if wanted and output.format != "onnx" else {}),
        },
    }
