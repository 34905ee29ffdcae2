"""Deployment of a model to an endpoint: the OnlineEndpoint to create, or the change of one that exists."""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import API_VERSION, Manifest

from ultramarine.resources.base import NAME_PATTERN

FIRST = "blue"  # name of an endpoint's first deployment


class Content(NamedTuple):
    """Fields of a deployment to set; empty ones stay as they are."""

    model: str
    scoring: Manifest | None = None
    environment: Manifest | None = None
    replicas: int = 0
    resources: Manifest | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the spec that are set."""
        return {name: copy.deepcopy(value) for name, value in self._asdict().items() if value}


def new_endpoint(name: str, deployment: str, content: Content) -> Manifest:
    """Return an OnlineEndpoint with one deployment."""
    only = {"name": deployment or FIRST, **content.fields()}
    return {
        "apiVersion": API_VERSION,
        "kind": "OnlineEndpoint",
        "metadata": {"name": name},
        "spec": {"deployments": [only]},
    }


def changed_spec(manifest: Manifest, deployment: str, content: Content) -> Manifest:
    """Return the fields to merge into an endpoint's spec, so that a deployment serves this content.

    A deployment that does not exist is added without traffic. Raises InvalidSpec if the choice is not clear.
    """
    spec = manifest["spec"]
    deployments: list[Manifest] = copy.deepcopy(spec["deployments"])
    names = [str(entry["name"]) for entry in deployments]
    name = manifest["metadata"]["name"]
    if not deployment:
        if len(names) > 1:
            raise InvalidSpec(f"endpoint {name} has several deployments: {listed(names)}. Choose one by --deployment.")
        deployment = names[0]
    if deployment in names:
        entry = deployments[names.index(deployment)]
        if "pool" in entry or "container" in entry:
            sort = "pool" if "pool" in entry else "container"
            raise InvalidSpec(f"deployment {deployment} of endpoint {name} is a {sort}. Change its manifest instead.")
        entry |= content.fields()
        return {"deployments": deployments}
    traffic = dict(spec.get("traffic") or {names[0]: 100})
    return {"deployments": [*deployments, {"name": deployment, **content.fields()}], "traffic": traffic}


def check_scoring(reference: str, format: str, deployments: list[Manifest]) -> None:
    """Refuse a deployment of a model that no server loads by itself, without a script. Raises InvalidSpec."""
    for entry in deployments:
        if entry.get("model") == reference and format == "custom" and not entry.get("scoring"):
            raise InvalidSpec(
                f"model {reference} has the format custom, which no server loads by itself. Give the script that"
                " answers with it: --scoring score.py."
            )


def check_name(option: str, name: str) -> None:
    """Refuse a name that Kubernetes refuses, in words. Raises InvalidSpec."""
    if name and not re.fullmatch(NAME_PATTERN, name):
        usable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        raise InvalidSpec(
            f"{option} {name}: a name has lower-case letters, digits and '-'. Write {usable or 'another name'}."
        )


def joined_spec(manifest: Manifest, spec: Manifest, *, turns_traffic: bool) -> Manifest:
    """Return the fields to merge into an endpoint's spec, so that it has the deployments of another spec too.

    A deployment of the same name is replaced, a new one gets no requests. With `turns_traffic` the shares of the other
    spec hold.
    """
    live = manifest["spec"]
    entries = {entry["name"]: entry for entry in copy.deepcopy([*live["deployments"], *spec["deployments"]])}
    change = {key: copy.deepcopy(value) for key, value in spec.items() if turns_traffic or key != "traffic"}
    change["deployments"] = list(entries.values())
    change.setdefault("traffic", dict(live.get("traffic") or {live["deployments"][0]["name"]: 100}))
    # A merge keeps what it does not name, so shares that end are named.
    change["traffic"] = {**dict.fromkeys(live.get("traffic") or {}), **change["traffic"]}
    return change


def parse_traffic(items: list[str]) -> dict[str, int]:
    """Return the shares of `blue=90 green=10`. Raises InvalidSpec."""
    shares = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name or not text.removesuffix("%").isdecimal():
            raise InvalidSpec(f"{item}: write DEPLOYMENT=PERCENT, such as blue=90.")
        shares[name] = int(text.removesuffix("%"))
    return shares


def reference_of(text: str) -> str:
    """Return MODEL@VERSION, MODEL@ALIAS or MODEL@latest of a text that may lack the second part."""
    model, at, selected = text.partition("@")
    if not model or (at and not selected):
        raise InvalidSpec(f"{text}: write MODEL, MODEL@VERSION or MODEL@ALIAS, such as churn@champion.")
    return text if at else f"{text}@latest"
