"""Small values of several schemas: environment variables, sizes, resources of a container."""

from __future__ import annotations

import re

from ultramarine_contract.quantities import amount

from ultramarine.azureml.commands import References
from ultramarine.azureml.fields import Fields

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kmgt]?)i?b?", re.IGNORECASE)
MAX_QUANTITY = 20
UNITS = {"": "", "k": "Ki", "m": "Mi", "g": "Gi", "t": "Ti"}
MAX_VARIABLES, MAX_VALUE = 128, 32_768


def environment_variables(fields: Fields, references: References) -> list[dict[str, str]]:
    """Return `environment_variables` as a list, with the paths and literals that expressions stand for."""
    section = fields.section("environment_variables")
    variables: list[dict[str, str]] = []
    for key in section.keys:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) or key.startswith("ULTRAMARINE_"):
            section.lose(key, "is not a name that a variable can have", "Choose letters, digits and '_'")
            continue
        text = references.fill(section.text(key))
        if "@https://" in text and "vault.azure.net" in text:
            section.lose(key, "is not read from Azure Key Vault", "Put it into a Secret, and name it in envFrom")
        elif len(text) > MAX_VALUE or len(variables) >= MAX_VARIABLES:
            section.lose(key, "is too long, or one of too many variables", "Put it into a file of the code")
        else:
            variables.append({"name": key, "value": text})
    return variables


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
