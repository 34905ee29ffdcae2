"""Steps that publish: an alias or a deployment moves to a version, and never back to an older one.

The status says what moves before it does, so an operator that dies in between continues from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ultramarine.resources.model import version_name, version_number
from ultramarine.resources.pipeline import Published, StepStatus
from ultramarine.resources.pipeline_values import Unresolved
from ultramarine_contract.errors import listed
from ultramarine_contract.meta import DATASET, MODEL, ONLINE_ENDPOINT, Manifest, Ref, Resource

from ...shared.conditions import find, is_true, timestamp
from ...shared.plan import Edit, Seen
from .board import RETRY, Board
from .graph import Node
from .work import Work

_OWNERS: dict[str, Resource] = {"Model": MODEL, "Dataset": DATASET}


@dataclass(frozen=True)
class _Target:
    """Field that a step moves: its object, its words for messages, its path and its present version."""

    resource: Resource
    manifest: Manifest
    words: str
    path: str
    present: str

    def edit(self, value: Any) -> Edit:
        return Edit(Ref.to(self.resource, self.manifest), self.path, value)


def publish(board: Board, node: Node, state: StepStatus, work: Work) -> None:
    """Bring a publishing step as far as it goes. Raises Unresolved if it can never end."""
    step = node.step
    kept = board.kept(state) | {"start_time": state.start_time or timestamp(board.now)}
    left = board.left(step, state)
    if left is not None and left.total_seconds() <= 0:
        words = f"not finished within timeoutSeconds={step.timeout_seconds}: {state.message}"
        board.end(state.name, "Failed", words, **kept)
        return
    board.look_again(left)
    published = state.published
    if published is None:
        begun = _published(work, board.seen)
        target = _target(begun, board.seen)
        published = begun.model_copy(update={"former": target.present})
        board.put(state.name, "Running", f"{target.words} moves", **kept | {"published": published})
        board.look_again(timedelta())
        return
    target = _target(published, board.seen)
    version = board.seen.look(f"{published.kind}Version", version_name(published.name, published.version))
    if version is None:
        raise Unresolved(f"version {published.version} of {published.kind} {published.name} was deleted")
    if version_number(target.present) > version_number(published.version):
        words = f"{target.words} leads to version {target.present}, which is newer than {published.version}"
        board.end(state.name, "Skipped", words, **kept)
    elif target.present != published.version:
        why = (find(version.get("status") or {}, "Ready") or {}).get("message") or "it is not checked yet"
        if is_true(version.get("status") or {}, "Ready"):
            board.edits.append(_edit(published, target))
            board.look_again(RETRY)
            why = ""
        name = version["metadata"]["name"]
        words = f"{target.words} waits for {name}: {why}" if why else f"{target.words} moves to {published.version}"
        board.put(state.name, "Running", words, **kept)
    elif node.step.publish is not None and node.step.publish.wait and (what := _awaited(published, board.seen)):
        board.put(state.name, "Running", what, **kept)
    else:
        former = "" if published.former in ("", published.version) else f", and led to {published.former} before"
        board.end(state.name, "Succeeded", f"{target.words} leads to version {published.version}{former}", **kept)


def _published(work: Work, seen: Seen) -> Published:
    """Return what a step is to publish. Raises Unresolved."""
    spec = work.spec
    kind = "Model" if "model" in spec else "Dataset"
    name = str(spec[kind.lower()])
    if seen.look(kind, name) is None:
        raise Unresolved(f"{kind} {name} does not exist; register a version of it first")
    number = _number(kind, name, str(spec["version"]), str(work.identity["version"]), seen)
    fields = {field: str(spec[field]) for field in ("alias", "endpoint", "deployment") if field in spec}
    return Published(kind=kind, name=name, version=number, **fields)


def _number(kind: str, name: str, version: str, digest: str, seen: Seen) -> str:
    """Return the number of a version that is given by its number, or by its files."""
    if version.isdecimal():
        if seen.look(f"{kind}Version", version_name(name, version)) is None:
            raise Unresolved(f"{kind} {name} has no version {version}; correct publish.version")
        return version
    latest = version_number(((seen.look(kind, name) or {}).get("status") or {}).get("latestVersion"))
    same = ""  # a Dataset gets no second version of equal content
    for number in range(latest + 1, 0, -1):  # the newest may not be counted yet
        spec = (seen.look(f"{kind}Version", version_name(name, str(number))) or {}).get("spec") or {}
        if spec.get("uri") == version:
            return str(number)
        same = same or (str(number) if spec.get("digest") == digest else "")
    if not same:
        raise Unresolved(f"no version of {kind} {name} has the files of {version}; run its step again: --force-rerun")
    return same


def _target(published: Published, seen: Seen) -> _Target:
    """Return the field that moves, as it is now. Raises Unresolved if it is not there, or cannot move."""
    if not published.deployment:
        owner = seen.look(published.kind, published.name)
        if owner is None:
            raise Unresolved(f"{published.kind} {published.name} was deleted")
        aliases = (owner.get("spec") or {}).get("aliases")
        key = published.alias.replace("~", "~0").replace("/", "~1")
        path = f"/spec/aliases/{key}" if aliases is not None else "/spec/aliases"
        words = f"alias {published.alias} of {published.kind} {published.name}"
        return _Target(_OWNERS[published.kind], owner, words, path, str((aliases or {}).get(published.alias, "")))
    endpoint = seen.look(ONLINE_ENDPOINT.kind, published.endpoint)
    if endpoint is None:
        raise Unresolved(f"OnlineEndpoint {published.endpoint} does not exist; apply it, or correct publish.endpoint")
    deployments = (endpoint.get("spec") or {}).get("deployments") or []
    names = [deployment.get("name") for deployment in deployments]
    words = f"deployment {published.deployment} of OnlineEndpoint {published.endpoint}"
    if published.deployment not in names:
        raise Unresolved(f"{words} does not exist (it has: {listed(names)}); correct publish.deployment")
    index = names.index(published.deployment)
    model, _, number = str(deployments[index].get("model") or "").partition("@")
    if model != published.name:
        raise Unresolved(f"{words} serves {model or 'no model'}, not Model {published.name}; correct publish.model")
    if not number.isdecimal():
        raise Unresolved(f"{words} follows {model}@{number}; publish the alias, or give the deployment a version")
    return _Target(ONLINE_ENDPOINT, endpoint, words, f"/spec/deployments/{index}/model", number)


def _edit(published: Published, target: _Target) -> Edit:
    if published.deployment:
        return target.edit(f"{published.name}@{published.version}")
    whole = target.path == "/spec/aliases"
    return target.edit({published.alias: published.version} if whole else published.version)


def _awaited(published: Published, seen: Seen) -> str:
    """Say what an endpoint still has to do until it serves a version. Raises Unresolved after a rollback."""
    endpoint = seen.look(ONLINE_ENDPOINT.kind, published.endpoint)
    if endpoint is None:
        raise Unresolved(f"OnlineEndpoint {published.endpoint} does not exist; apply it, or correct publish.endpoint")
    spec, status = endpoint.get("spec") or {}, endpoint.get("status") or {}
    follows = f"{published.name}@{published.alias}"
    names = [
        deployment.get("name")
        for deployment in spec.get("deployments") or []
        if published.deployment == deployment.get("name") or (published.alias and deployment.get("model") == follows)
    ]
    if not names:
        raise Unresolved(f"no deployment of OnlineEndpoint {published.endpoint} has the model {follows}")
    rollout, candidate = status.get("rollout") or {}, (spec.get("rollout") or {}).get("candidate")
    version = version_name(published.name, published.version)
    states = {deployment.get("name"): deployment for deployment in status.get("deployments") or []}
    for name in names:
        state = states.get(name) or {}
        words = f"deployment {name} of OnlineEndpoint {published.endpoint}"
        is_old = status.get("observedGeneration") != endpoint["metadata"].get("generation")
        if is_old or state.get("modelVersion") != version:
            return f"{words} is to serve {version}"
        if name != candidate and state.get("state") != "Ready":
            return f"{words} is {state.get('state') or 'new'}: {state.get('message') or 'its pods start'}"
        if name == candidate and rollout.get("phase") == "RolledBack":
            raise Unresolved(f"{words} was rolled back: {rollout.get('message')}")
        if name == candidate and rollout.get("phase") != "Promoted":
            return f"{words}: rollout {rollout.get('phase') or 'begins'}, {rollout.get('message', '')}"
    return ""
