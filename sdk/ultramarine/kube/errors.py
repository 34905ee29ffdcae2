"""Answers of the API server that are errors, as sentences with a remedy."""

from __future__ import annotations

import json
from typing import Any

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Resource

from .config import Access, NoAccess


class NotFound(UltramarineError):
    """The object does not exist; `resource` is its kind, if that is one, and `name` what was asked for."""

    reason = "NotFound"

    def __init__(self, message: str, resource: Resource | None = None, name: str = "") -> None:
        super().__init__(message)
        self.resource, self.name = resource, name


class Forbidden(UltramarineError):
    """The user lacks a right; the message names verb, resource and namespace."""

    reason = "Forbidden"


class Exists(UltramarineError):
    """An object of this name exists, or another writer owns the field."""

    reason = "Conflict"


class Owned(Exists):
    """Other writers own fields of an apply; `owners` has their names."""

    def __init__(self, message: str, owners: frozenset[str]) -> None:
        super().__init__(message)
        self.owners = owners


class Rejected(UltramarineError):
    """The API server does not admit the object; `causes` has a line for each field."""

    reason = "Invalid"

    def __init__(self, message: str, causes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes


class Gone(UltramarineError):
    """The watch's version is too old; the list has to be read again."""

    reason = "Gone"


class LoginRefused(NoAccess):
    """The cluster does not accept the user's credentials."""


class ApiError(UltramarineError):
    """Any other error of the API server."""

    reason = "ApiError"


_UNTYPED = "failed to create typed patch object"
_UNCHECKED = "some validation rules were not checked"  # beside the faults that kept the server from them


def error_of(status: int, body: bytes, what: str, access: Access) -> UltramarineError:
    """Return the error that an answer means. `what` names the object, such as TrainingJob team-a/churn."""
    answer = _status(body)
    message = str(answer.get("message") or body[:300].decode(errors="replace").strip() or f"HTTP {status}")
    match status:
        case 401:
            return LoginRefused(
                f"{access.server} does not accept your login (context {access.context}). Log in again, or ask your"
                " administrator for a new kubeconfig."
            )
        case 403:
            return Forbidden(
                f"{_plain(message)}. Ask your administrator for this right, or choose a namespace with -n."
            )
        case 404 if answer.get("details", {}).get("name"):
            return NotFound(f"{what} does not exist. `ultramarine get` lists what is there.")
        case 404:
            return NotFound(f"{what} does not exist, or the cluster has no Ultramarine. Run `ultramarine doctor`.")
        case 409 if answer.get("reason") == "AlreadyExists":
            return Exists(f"{what} already exists. Choose another name, or delete it first.")
        case 409 if owners := _owners(answer):
            listing = "; ".join(f"{owner} owns {', '.join(fields)}" for owner, fields in owners.items())
            remedy = "Leave the fields out, or take them over by --force (in Python force=True)."
            return Owned(f"{what} was not changed: {listing}. {remedy}", frozenset(owners))
        case 409:
            return Exists(f"{what} was not changed: {message}")
        case 410:
            return Gone(message)
        case 422 | 400:
            reported = answer.get("details", {}).get("causes") or []
            causes = tuple(_cause(cause) for cause in reported if _UNCHECKED not in str(cause.get("message")))
            return Rejected(f"{what} is not valid: {'; '.join(causes) or message}", causes or (message,))
        case 500 if message.startswith(_UNTYPED):  # an unknown field in a server-side apply
            cause = message.rpartition("): ")[2]
            return Rejected(f"{what} is not valid: {cause}", (cause,))
    return ApiError(
        f"{what}: the API server answers {status}: {message}. Try again; `ultramarine doctor` looks for causes."
    )


def _status(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _owners(answer: dict[str, Any]) -> dict[str, list[str]]:
    """Return the fields of a conflict by the writer that owns them; empty for other conflicts."""
    owners: dict[str, list[str]] = {}
    for cause in answer.get("details", {}).get("causes") or []:
        if cause.get("reason") == "FieldManagerConflict":
            _, owner, *_ = [*str(cause.get("message", "")).split('"'), "another writer"]
            owners.setdefault(owner, []).append(str(cause.get("field", "")).removeprefix("."))
    return owners


def _cause(cause: dict[str, Any]) -> str:
    place = str(cause.get("field", ""))
    message = str(cause.get("message", ""))
    for before in ("Invalid value: ", "Forbidden: "):
        message = message.removeprefix(before)
    return f"{place}: {message}" if place and place not in ("<nil>", "") else message


def _plain(message: str) -> str:
    """Return Kubernetes' sentence about a missing right without its prefix: user, verb, resource, namespace."""
    _, separator, rest = message.partition(" is forbidden: ")
    return rest if separator else message
