"""Resolution of MODEL@REFERENCE to one ModelVersion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pydantic import ValidationError
from ultramarine.resources.environment import EnvironmentReference
from ultramarine.resources.model import LATEST, ModelFormat, ModelVersionSpec, trusts, version_name, version_number
from ultramarine_contract.errors import listed
from ultramarine_contract.meta import Manifest

from ...shared.conditions import find, is_true
from ...shared.plan import Seen

# Reasons of versions that may become ready without user action; the empty one is that of a new version.
TRANSIENT = ("", "Checking", "Compiling", "Unavailable", "Unreachable")


@dataclass(frozen=True)
class Resolved:
    """A version that can be served; `spec` has the uri, digest and format of the compiled artifact if one exists.

    `registered` is the version as registered, and `native` too, if it is served while it is compiled in the background.
    `environment` is what the model itself asks for, if the server image cannot load it.
    """

    name: str
    spec: ModelVersionSpec
    registered: ModelVersionSpec
    native: ModelVersionSpec | None = None
    environment: EnvironmentReference | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """Name, URI and digest of the model; compilation in the background does not change them."""
        spec = self.native or self.spec
        return self.name, spec.uri, spec.digest


@dataclass(frozen=True)
class Unresolved:
    """The reason why no version can be served, with the remedy.

    `transient` means that no user action is needed, `gone` that the version existed before, and `failed` that the build
    of the environment failed for good. `stalled` means that the endpoint, the version or the environment must change.
    """

    message: str
    transient: bool = False
    gone: bool = False
    failed: bool = False
    stalled: bool = False


def resolve(reference: str, seen: Seen, served: Iterable[str] = ()) -> Resolved | Unresolved:
    """Find the version that `reference` names; `served` are versions that existed before."""
    model, _, selected = reference.partition("@")
    gone = any(name.rpartition("-")[0] == model for name in served)
    versions = [v for v in seen.others("ModelVersion") if v["spec"].get("model") == model]
    if selected == LATEST:
        ready = [v for v in versions if is_true(v.get("status") or {}, "Ready")]
        if ready:
            return _resolved(max(ready, key=_number), seen)
        if versions:
            newest = max(versions, key=_number)
            return replace(_unready(newest), message=f"no version of Model {model} is ready: {_why(newest)}")
        makes = f"a TrainingJob with registerAs: {model} makes one (`ultramarine get tj` shows failed ones)"
        return Unresolved(f"Model {model} has no version {'any more' if gone else 'yet'}; {makes}", not gone, gone)
    number, leads = selected, ""
    remedy = "apply it, or name a version that exists"
    if not selected.isdigit():
        owner = next((m for m in seen.others("Model") if m["metadata"]["name"] == model), None)
        if owner is None:
            missing = "no longer exists" if gone else "does not exist yet"
            return Unresolved(f"Model {model} {missing}; apply it, or train it with registerAs: {model}", gone=gone)
        aliases = (owner.get("spec") or {}).get("aliases") or {}
        if selected not in aliases:
            there = ", ".join(sorted(aliases)) or "none"
            return Unresolved(
                f"Model {model} has no alias {selected} (it has: {there}); set spec.aliases.{selected} in it"
            )
        number, leads = str(aliases[selected]), f"alias {selected} of Model {model} leads to "
        remedy = f"apply it, or set spec.aliases.{selected} of the Model to a version that exists"
    version = next((v for v in versions if v["spec"].get("version") == number), None)
    if version is None:
        name = version_name(model, number)
        gone = name in served
        missing = f"{'which ' if leads else ''}{'no longer exists' if gone else 'does not exist yet'}"
        there = listed(sorted(map(_number, versions), reverse=True)) or "none"
        what = f"{leads}ModelVersion {name}{',' if leads else ''} {missing}"
        return Unresolved(f"{what} (there are: {there}); {remedy}", gone=gone)
    if not is_true(version.get("status") or {}, "Ready"):
        return _unready(version)
    try:
        return _resolved(version, seen)
    except ValidationError:  # an earlier release accepted it
        name = version["metadata"]["name"]
        return Unresolved(f"the spec of ModelVersion {name} is not valid; register the model again")


def _resolved(version: Manifest, seen: Seen) -> Resolved:
    spec = ModelVersionSpec.model_validate(version["spec"])
    if trusts(next((m for m in seen.others("Model") if m["metadata"]["name"] == spec.model), None)):
        spec = spec.model_copy(update={"allow_code_execution": True})
    status, name = version.get("status") or {}, version["metadata"]["name"]
    native = spec if spec.compile is None else None
    if is_true(status, "Compiled") and (spec.compile is None or spec.compile.to != "none"):
        compiled = status.get("compiled") or {}
        artifact = {"uri": compiled.get("uri"), "digest": compiled.get("digest"), "format": ModelFormat(name="onnx")}
        if artifact["uri"] and artifact["digest"]:
            return Resolved(name, spec.model_copy(update=artifact), spec, native)
    return Resolved(name, spec, spec, native, _environment(status) if spec.allow_code_execution else None)


def _environment(status: Manifest) -> EnvironmentReference | None:
    """Return the requirements in a version's status as a deployment would give them; None without any."""
    try:
        return EnvironmentReference(requirements=status["requirements"])
    except (KeyError, ValidationError):  # damaged by hand
        return None


def _number(version: Manifest) -> int:
    return version_number(version["spec"].get("version"))


def _unready(version: Manifest) -> Unresolved:
    stalled = is_true(version.get("status") or {}, "Stalled")
    return Unresolved(_why(version), _reason(version) in TRANSIENT, stalled=stalled)


def _reason(version: Manifest) -> str:
    return str((find(version.get("status") or {}, "Ready") or {}).get("reason") or "")


def _why(version: Manifest) -> str:
    condition = find(version.get("status") or {}, "Ready") or {}
    return (
        f"ModelVersion {version['metadata']['name']} is not ready: {condition.get('message') or 'it is being checked'}"
    )
