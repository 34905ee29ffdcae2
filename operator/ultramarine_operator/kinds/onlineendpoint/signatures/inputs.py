"""Comparison of the inputs of two versions.

The inputs of a version come from its spec.signature, otherwise from one of its pods by way of the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from msgspec import structs
from pydantic import ValidationError
from ultramarine.resources.model import Datatype, Signature
from ultramarine_contract.errors import listed
from ultramarine_contract.routes import RouteState

from ....shared.plan import Seen

_DATATYPES = frozenset(get_args(Datatype))
_INT64 = 2**63  # a status cannot hold lengths from here on
_MAX_SHOWN = 3  # differences in a message
_FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}
# Bits of the largest integers that a float datatype takes, as the servers (by NumPy) convert them.
_EXACT = {"FP16": 8, "FP32": 16, "FP64": 64}


@dataclass(frozen=True)
class Input:
    """One input: an empty `datatype` stands for any, -1 in `shape` for any length; `features` are column names."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    features: frozenset[str] = frozenset()


Inputs = tuple[Input, ...]


def inputs_of(version: str, seen: Seen, proxies: Iterable[RouteState]) -> Inputs | None:
    """Return the inputs of a version, as declared or as a pod reports them; None if unknown."""
    registered = next((v for v in seen.others("ModelVersion") if v["metadata"]["name"] == version), None)
    if registered is not None and registered["spec"].get("signature"):
        try:
            declared = Signature.model_validate(registered["spec"]["signature"])
        except ValidationError:  # an earlier release accepted it
            return None
        return tuple(Input(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in declared.inputs)
    for proxy in proxies:
        for report in (proxy.signatures or {}).values():
            if (inputs := _read(report, version)) is not None:
                return inputs
    return None


def attributed(proxies: Iterable[RouteState], containers: Mapping[str, str]) -> tuple[RouteState, ...]:
    """Return the states with reports on containers under their ModelVersion, since a container has names of its own.

    `containers` are the versions by deployment; reports on pods that may be of another version are left out.
    """

    def renamed(reports: Mapping[str, Any]) -> dict[str, Any]:
        kept = dict(reports)
        for deployment, version in containers.items():
            name, _, number = version.rpartition("-")
            report = kept.pop(deployment, None)
            if version and isinstance(report, dict):
                kept[deployment] = {**report, "name": name, "version": number}
        return kept

    return tuple(structs.replace(proxy, signatures=renamed(proxy.signatures or {})) for proxy in proxies)


def _read(report: Any, version: str) -> Inputs | None:
    """Read a pod's report on a version; None if the pod serves another version, or the report is invalid."""
    try:
        if f"{report['name']}-{report['version']}" != version:
            return None
        return tuple(_input(document) for document in report["inputs"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _input(document: Mapping[str, Any]) -> Input:
    names = (document.get("parameters") or {}).get("feature_names") or ""
    datatype, shape = str(document["datatype"]), tuple(int(length) for length in document["shape"])
    if datatype not in {*_DATATYPES, ""} or any(abs(length) >= _INT64 for length in shape):
        raise ValueError(f"{datatype} {shape} is not a type of an input")
    features = frozenset(name.strip() for name in str(names).split(",") if name.strip())
    return Input(str(document["name"]), datatype, shape, features)


def incompatibility(champion: Inputs, candidate: Inputs) -> str:
    """Say why the candidate refuses requests for the champion; empty if it accepts them."""
    before, after = ({tensor.name: tensor for tensor in inputs} for inputs in (champion, candidate))
    differences = [f"it has no input {name}" for name in before if name not in after]
    differences += [f"it needs an input {name}" for name in after if name not in before]
    for name, old in before.items():
        if name in after:
            differences += _differences(old, after[name])
    return listed(differences, _MAX_SHOWN)


def _differences(old: Input, new: Input) -> list[str]:
    if not _takes(new.datatype, old.datatype):
        return [f"its input {new.name} is {new.datatype} and not {old.datatype}"]
    if not _fits(new.shape, old.shape):
        return [f"its input {new.name} has the shape {list(new.shape)} and not {list(old.shape)}"]
    if old.features and new.features:
        missing, added = sorted(old.features - new.features), sorted(new.features - old.features)
        return [f"it has no feature {name}" for name in missing] + [f"it needs a feature {name}" for name in added]
    return []


def _fits(new: tuple[int, ...], old: tuple[int, ...]) -> bool:
    if len(new) == 1 and len(old) == 2 and old[-1] == 1:  # A column may come as a matrix of one column.
        old = old[:1]
    return len(new) == len(old) and all(a in (-1, b) or b == -1 for a, b in zip(new, old, strict=True))


def _takes(new: str, old: str) -> bool:
    """True if an input of one datatype accepts all values of another, as the servers convert them.

    An unknown datatype stands for any: a status may have been edited.
    """
    if new == old or not {new, old} <= _DATATYPES:
        return True
    if "BYTES" in (new, old) or new == "BOOL":
        return False
    if old == "BOOL":
        return True
    if new in _FLOATS:
        return _FLOATS[new] >= _FLOATS[old] if old in _FLOATS else _EXACT[new] >= _bits(old)
    if old in _FLOATS:
        return False
    if new.startswith("INT") and old.startswith("UINT"):
        return _bits(new) > _bits(old)
    return new.startswith("UINT") == old.startswith("UINT") and _bits(new) >= _bits(old)


def _bits(datatype: str) -> int:
    return int(datatype.removeprefix("U").removeprefix("INT") or 0)
