"""Diagnosis of an object: what happened, why, and what to do, from its conditions and its failure."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from ultramarine_contract.meta import Manifest

_DECISIVE = (
    ("Accepted", "False"),
    ("Failed", "True"),
    ("Reconciled", "False"),
    ("Stalled", "True"),
    ("Succeeded", "True"),
    ("Suspended", "True"),
    ("Ready", "False"),
    ("Ready", "Unknown"),
    ("Running", "False"),
    ("Running", "Unknown"),
    ("Running", "True"),
    ("Reconciling", "True"),
    ("Ready", "True"),
)


class Diagnosis(NamedTuple):
    """Event, reason with its meaning, and remedy; each may be empty."""

    what: str
    reason: str
    meaning: str
    remedy: str


def decisive(status: Manifest) -> dict[str, Any]:
    """Return the condition that explains the state best; empty without conditions."""
    conditions = {(entry["type"], entry["status"]): entry for entry in status.get("conditions") or []}
    return next((conditions[key] for key in _DECISIVE if key in conditions), {})


def diagnosis(object: Manifest) -> Diagnosis:
    """Return what happened to an object, and what to do."""
    status = object.get("status") or {}
    condition, failure = _explaining(object["kind"], status), status.get("failure") or {}
    ended = condition.get("type") == "Failed"
    if not failure or (status.get("state") == "Succeeded"):
        meaning, remedy = remedy_of(object["kind"], condition.get("type", ""), condition.get("reason", ""))
        return Diagnosis(condition.get("message", ""), condition.get("reason", ""), meaning, remedy)
    reason = failure.get("reason", "")
    meaning, remedy = remedy_of(object["kind"], "Failed", reason)
    what = failure.get("message") or condition.get("message", "")
    refused = condition.get("type") == "Accepted"  # which is the failure
    if not (ended or refused) and condition.get("message"):  # an attempt failed, and another one follows
        what = f"{condition['message']}; the last attempt failed: {what}"
    return Diagnosis(what, reason, meaning, failure.get("hint") or remedy)


def _explaining(kind: str, status: Manifest) -> dict[str, Any]:
    """Return the decisive condition; for Stalled, which is for kstatus, one with a remedy that it repeats."""
    condition = decisive(status)
    if condition.get("type") != "Stalled" or not (message := condition.get("message", "")):
        return condition
    for entry in status.get("conditions") or []:
        text = entry.get("message", "")
        repeated = entry["status"] == "False" and text and (text in message or message in text)
        if repeated and remedy_of(kind, entry["type"], entry.get("reason", ""))[1]:
            return dict(entry)
    return condition


def warnings(object: Manifest) -> list[str]:
    """Return the messages about probable mistakes in a spec that is valid."""
    conditions = (object.get("status") or {}).get("conditions") or []
    accepted = [entry for entry in conditions if entry["type"] == "Accepted" and entry["status"] == "True"]
    return [entry["message"] for entry in accepted if entry.get("message")]


def remedy_of(kind: str, condition: str, reason: str) -> tuple[str, str]:
    """Return the meaning of a reason, and the remedy; both may be empty."""
    for tables in (_remedies().get(kind, {}), _remedies()[""]):
        if line := tables.get(condition, {}).get(reason):
            return line[0], line[1]
    return "", ""


@cache
def _remedies() -> dict[str, dict[str, dict[str, list[str]]]]:
    return dict(json.loads(resources.files(__package__).joinpath("remedies.json").read_text()))
