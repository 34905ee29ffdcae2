"""Compute targets by the table `compute:` of ultramarine.yaml, and resources and sizes of containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.quantities import amount

from ultramarine.azureml.fields import Fields

PROJECT_FILE = "ultramarine.yaml"
KEYS = ("nodeSelector", "tolerations", "resources")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kmgt]?)i?b?", re.IGNORECASE)
MAX_QUANTITY = 20
UNITS = {"": "", "k": "Ki", "m": "Mi", "g": "Gi", "t": "Ti"}


@dataclass(frozen=True)
class Compute:
    """Counterpart of a compute target: parts of podTemplate, and resources."""

    pod_template: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)


def read_table(folder: Path) -> dict[str, Compute]:
    """Return the table of the nearest ultramarine.yaml with one, at or above a folder. Raises InvalidSpec."""
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / PROJECT_FILE).is_file() and (table := _table(parent / PROJECT_FILE)) is not None:
            return table
    return {}


def _table(path: Path) -> dict[str, Compute] | None:
    """Return the table of a file; None if it has none."""
    import yaml

    from ultramarine.resources.base import Resources
    from ultramarine.resources.pods import PodTemplate

    try:
        documents = [*yaml.safe_load_all(path.read_text())]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidSpec(f"{path} cannot be read: {error}. Correct the file.") from error
    own = [document for document in documents if isinstance(document, dict) and "kind" not in document]
    table = next((document["compute"] for document in own if "compute" in document), None)
    if table is None:
        return None
    if not isinstance(table, dict):
        raise InvalidSpec(f"compute in {path} is not a mapping. Write a name with nodeSelector or resources below it.")
    computes: dict[str, Compute] = {}
    for name, entry in table.items():
        entry = {} if entry is None else entry
        if not isinstance(entry, dict) or not set(entry) <= set(KEYS):
            raise InvalidSpec(f"compute.{name} in {path} has other fields than {', '.join(KEYS)}. Remove them.")
        pod_template = {key: entry[key] for key in KEYS[:2] if key in entry}
        try:
            PodTemplate.model_validate(pod_template)
            Resources.model_validate(entry.get("resources") or {})
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise InvalidSpec(
                f"compute.{name} in {path} is invalid at {place}: {error.errors()[0]['msg']}. Correct it."
            ) from error
        computes[str(name)] = Compute(pod_template, dict(entry.get("resources") or {}))
    return computes


def compute_of(fields: Fields, computes: Mapping[str, Compute], resources: Fields, key: str = "compute") -> Compute:
    """Return what stands for a file's compute target or VM size; an unlisted one is a loss."""
    target = fields.take(key)
    target = target.get("target") if isinstance(target, dict) else target
    cluster = str(target or "").removeprefix("azureml:").partition(":")[0]
    sizes = [str(size) for size in resources.items("instance_type")]
    if cluster and sizes:
        resources.note("instance_type", "the compute target has its own size")
    for name in (cluster, *sizes):
        if name in computes:
            return computes[name]
    place, name, owner = (key, cluster, fields) if cluster else ("instance_type", ", ".join(sizes), resources)
    if name and name not in ("local", "serverless"):
        owner.lose(
            place,
            f"{name} names a compute target of Azure",
            f"Add {name.split(', ')[0]} to compute in {PROJECT_FILE}, with resources and a nodeSelector",
        )
    return Compute()


def shared_memory(resources: Fields) -> str:
    """Return the size of /dev/shm as a quantity; docker's 2g is 2Gi."""
    text = resources.text("shm_size")
    match = _SIZE.fullmatch(text)
    if text and match is None:
        resources.lose("shm_size", f"{text} is not a size", "Write a size such as 2g")
    return f"{match['number']}{UNITS[match['unit'].lower()]}" if match else ""


def container_resources(section: Fields) -> dict[str, dict[str, str]]:
    """Return requests and limits of a container; a request above its limit becomes the limit."""
    result: dict[str, dict[str, str]] = {}
    for part in ("limits", "requests"):
        amounts = section.section(part)
        for key in amounts.keys:
            text = amounts.text(key)
            name = "nvidia.com/gpu" if key == "gpu" else key
            limit = result.get("limits", {}).get(name, "")
            if not _QUANTITY.fullmatch(text) or len(text) > MAX_QUANTITY:
                amounts.lose(key, f"{text[:40]} is not a quantity", "Write a quantity such as 500m or 4Gi")
            elif "/" in name:  # a device, which only limits can have
                if amount(text):
                    result.setdefault("limits", {})[name] = text
            elif part == "requests" and limit and amount(text) > amount(limit):
                amounts.lose(key, f"{text} is above the limit, and became {limit}", "Raise the limit")
                result.setdefault(part, {})[name] = limit
            else:
                result.setdefault(part, {})[name] = text
    section.close()
    return result
