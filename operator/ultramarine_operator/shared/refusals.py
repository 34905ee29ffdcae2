"""Refusals of the API server: its words about an object that was not admitted, with the remedy."""

from __future__ import annotations

import re

from ultramarine_contract.quantities import amount

# The part that names the refused object, which is another pod each time.
_REFUSED = re.compile(
    r'^(\(combined from similar events\): )?(Error creating: )?([a-z.]+ "[^"]*" is forbidden: )?', re.ASCII
)
_ASKED, _LIMITED = re.compile(r"requested: (.*?), used: "), re.compile(r"limited: (.*)$")
_AMOUNT = re.compile(r"([^=, ]+)=([^=, ]+)")
_LIMITS = re.compile(r"must be less than or equal to \S+ limit|(maximum|minimum) \S+ usage per")


def refused_object(message: str) -> str:
    """Return the API server's words on an object that it refused, without the object's name."""
    return _REFUSED.sub("", message)


def refused(message: str, template: str = "spec.podTemplate") -> str:
    """Return the API server's words on an object that it refused, without the object's name, and the remedy.

    `template` is the path of the author's podTemplate.
    """
    why = refused_object(message)
    if "exceeded quota: " in why and _is_beyond(why):
        return f"{why}; it asks for more than the whole quota: ask for less, or have the quota raised"
    if "exceeded quota: " in why:
        return f"{why}; it goes on by itself when there is room: ask for less, end something, or have the quota raised"
    if "failed quota: " in why:
        return f"{why}; set that in resources, or have a LimitRange give the namespace defaults"
    if _LIMITS.search(why):
        remedy = "set resources.limits beside the requests, within the namespace's LimitRange"
        if "ephemeral-storage" in why:
            remedy += ", or have the chart's training.ephemeralStorage or serving.ephemeralStorage lowered to it"
        return f"{why}; {remedy}"
    if "no PriorityClass with name" in why:
        return f"{why}; create it, or correct {template}.priorityClassName"
    if "error looking up service account" in why and "not found" in why:
        return f"{why}; create it, or correct {template}.serviceAccountName"
    return why


def _is_beyond(refusal: str) -> bool:
    """True if a request exceeds the whole quota, so that the end of another object makes no room."""
    asked, limited = _ASKED.search(refusal), _LIMITED.search(refusal)
    if asked is None or limited is None:
        return False
    limits = dict(_AMOUNT.findall(limited[1]))
    try:
        return any(amount(size) > amount(limits[name]) for name, size in _AMOUNT.findall(asked[1]) if name in limits)
    except ValueError:
        return False
