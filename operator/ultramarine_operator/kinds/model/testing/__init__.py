"""Test material of Model and ModelVersion."""

from ultramarine_contract.meta import Manifest

from ....runs.registration import LABEL_OUTPUT
from ....shared.testing import Material, Neighbour, applied
from .lives import MODEL_LIVES, VERSION_LIVES
from .rules import MODEL_RULES, VERSION_RULES
from .samples import DELETED, WHOLE_MODEL, WHOLE_VERSION, compiled_version


def _complete_version(manifest: Manifest, spec: Manifest) -> None:
    if spec["format"]["name"] == "onnx":
        spec.pop("compile", None)
    spec["model"] = manifest["metadata"]["name"]
    manifest["metadata"]["name"] = f"{spec['model']}-{spec['version']}"


MODEL_MATERIAL = Material(
    kind="Model",
    whole=WHOLE_MODEL,
    least={},
    defaults={"deletionPolicy": "Retain"},
    edit={"description": "another one"},
    free=(
        {"description": "Other.", "aliases": {"champion": "8", "challenger": "9"}},
        {"card": {"owner": "other"}, "retention": None, "deletionPolicy": "Delete"},
    ),
    rules=MODEL_RULES,
    lives=MODEL_LIVES,
    samples=DELETED,
    neighbour=Neighbour(lambda name, _: applied("Model", name, {"aliases": {"champion": "1"}}), ready=True),
)
VERSION_MATERIAL = Material(
    kind="ModelVersion",
    whole=WHOLE_VERSION,
    least={key: WHOLE_VERSION["spec"][key] for key in ("model", "version", "uri", "digest", "format")},
    defaults={"allowCodeExecution": False},
    edit={"allowCodeExecution": True},
    free=({"allowCodeExecution": True},),
    rules=VERSION_RULES,
    lives=VERSION_LIVES,
    samples=(compiled_version,),
    complete=_complete_version,
    neighbour=Neighbour(
        lambda name, artifact: applied("ModelVersion", f"{name}-1", {"model": name, "version": "1", **artifact}),
        ready=True,
    ),
    final=("Ready",),
    labels=(LABEL_OUTPUT,),
)
