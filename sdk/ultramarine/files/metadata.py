"""Checks of an object's head: apiVersion, kind and metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ultramarine_contract.meta import API_VERSION, GROUP, Manifest

from .checking import Fault, name_of
from .schemas import kinds, meant

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
# Fields of metadata that users write, and those that the API server writes into what `kubectl get -o yaml` shows.
_WRITTEN = ("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences")
_STORED = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


def is_foreign(manifest: Manifest) -> bool:
    """True if an object is of a kind that the platform does not define, such as ConfigMap."""
    version, kind = manifest.get("apiVersion"), manifest.get("kind")
    ours = isinstance(version, str) and version.partition("/")[0] == GROUP
    return (
        isinstance(version, str)
        and isinstance(kind, str)
        and bool(version and kind)
        and not ours
        and kind not in kinds()
    )


def head_faults(manifest: Manifest) -> Iterator[Fault]:
    """Yield faults of apiVersion and kind."""
    version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if version != API_VERSION:
        yield Fault(
            ("apiVersion",),
            f"required; write apiVersion: {API_VERSION}" if version is None else f"must be {API_VERSION}",
        )
    if not isinstance(kind, str):
        yield Fault(("kind",), f"required; {meant('', list(kinds()), 'kinds')}" if kind is None else "must be a text")
    elif kind not in kinds():
        yield Fault(("kind",), f"{kind} is not a kind of Ultramarine; {meant(kind, list(kinds()), 'kinds')}")


def metadata_faults(manifest: Manifest) -> Iterator[Fault]:
    """Yield faults of metadata, except those that rules of the kind name."""
    meta = manifest.get("metadata")
    if not isinstance(meta, dict):
        what = "required; write metadata: {name: NAME}" if meta is None else f"must be an object, not {name_of(meta)}"
        yield Fault(("metadata",), what)
        return
    for name in meta:
        if name not in _WRITTEN and name not in _STORED:
            yield Fault(("metadata", name), f"unknown field; {meant(name, list(_WRITTEN), 'fields')}", of_name=True)
    if not meta.get("name") and not meta.get("generateName"):
        yield Fault(("metadata", "name"), "required; add it")
    for field in ("name", "namespace", "generateName"):
        yield from _name_faults(field, meta.get(field))
    yield from _labels(meta.get("labels"))
    yield from _texts("annotations", meta.get("annotations"))


def _name_faults(field: str, value: Any) -> Iterator[Fault]:
    path = ("metadata", field)
    if value is None or value == "":
        return
    if not isinstance(value, str):
        yield Fault(path, f"must be a text, not {name_of(value)}; quote it")
    elif field == "namespace" and not _DNS_LABEL.fullmatch(value):
        yield Fault(path, "must be lower-case letters, digits and '-', at most 63 characters")
    elif len(value) > 253 or not _SUBDOMAIN.fullmatch(value.removesuffix("-") if field == "generateName" else value):
        yield Fault(path, "must be lower-case letters, digits, '-' and '.', with a letter or digit at both ends")


def _texts(field: str, values: Any) -> Iterator[Fault]:
    if values is None:
        return
    if not isinstance(values, dict):
        yield Fault(("metadata", field), f"must be an object, not {name_of(values)}")
        return
    for key, value in values.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL.fullmatch(name) or (slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix))):
            yield Fault(("metadata", field, key), "the key must be a label key, such as example.com/team", of_name=True)
        if not isinstance(value, str) and value is not None:
            yield Fault(("metadata", field, key), f"must be a text, not {name_of(value)}; quote it")


def _labels(values: Any) -> Iterator[Fault]:
    yield from _texts("labels", values)
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, str) and value and not _LABEL.fullmatch(value):
            words = "must be a label value: letters, digits, '-', '_' and '.', at most 63 characters"
            yield Fault(("metadata", "labels", key), words)
