"""Test material of Environment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ultramarine.resources.environment import EnvironmentSpec
from ultramarine_contract.meta import Manifest

from ...shared.conditions import timestamp
from ...shared.environments import LABEL_SHARED
from ...shared.plan import Obj, Plan, Platform
from ...shared.testing import (
    DIGEST,
    NAME_OF_40,
    NOW,
    Life,
    Material,
    Neighbour,
    Rule,
    World,
    applied,
    clash,
    named,
    seen,
    stored,
    until_message,
    until_none,
    until_state,
    until_true,
)
from .plan import plan

INLINE: Manifest = {"python": {"requirements": ["lightgbm==4.6.0"]}}
URI = "s3://lake/team-a/environments/tools/Environment-tools-uid/0123456789abcdef/environment.tar.zst"


def read(manifest: Manifest) -> Obj[EnvironmentSpec]:
    """Return an Environment with its spec read."""
    return Obj(manifest, EnvironmentSpec.model_validate(manifest["spec"]))


def environment(spec: Manifest | None = None, status: Manifest | None = None, **meta: Any) -> Obj[EnvironmentSpec]:
    """The Environment tools as the API server returns it."""
    return read(stored("Environment", "tools", spec or INLINE, status, **meta))


def built(**status: Any) -> Manifest:
    """The status of an Environment whose archive is stored."""
    ready = {"type": "Ready", "status": "True", "reason": "Built", "lastTransitionTime": timestamp(NOW)}
    return {"uri": URI, "digest": DIGEST, "bytes": 2**20, "attempts": 1, "conditions": [ready], **status}


def building_environment(platform: Platform) -> Plan:
    """An Environment on an own image, with requirements in a repository that needs credentials."""
    git = {"url": "https://git.example.com/team/churn.git", "secretRef": {"name": "git"}}
    python = {"version": "3.11", "requirementsFile": {"source": {"git": git}, "path": "deploy/requirements.txt"}}
    return plan(environment({"image": "registry.example.com/base:1", "python": python}), seen(platform=platform), NOW)


def plain_environment(platform: Platform) -> Plan:
    """An Environment on the platform's image, with requirements in a ConfigMap."""
    python = {"requirementsFrom": {"configMap": {"name": "packages", "key": "requirements.txt"}}}
    return plan(environment({"python": python}), seen(platform=platform), NOW)


def deleted_environment(platform: Platform) -> Plan:
    """An Environment that is unused, and whose archive is to go."""
    status = built(unusedSince=timestamp(NOW - timedelta(days=15)))
    status["conditions"][0] |= {"status": "False", "reason": "Unused"}
    return plan(environment(INLINE, status, labels={LABEL_SHARED: "true"}), seen(platform=platform), NOW)


async def _is_built(world: World) -> None:
    await until_message(world, "Environment", "tools", "Ready", "Job tools-build-1")
    world.decide("tools-build-1", "no-image")
    await until_message(world, "Environment", "tools", "Ready", "cannot pull image")
    world.decide("tools-build-1", "succeeds")
    await until_true(world, "Environment", "tools")


async def _fails(world: World) -> None:
    world.decide("tools-build-1", "fails")
    await until_state(world, "Environment", "tools", "Failed")


async def _ends(world: World) -> None:
    world.decide("tools-build-1", "succeeds")
    world.decide("tools-delete", "succeeds")
    await until_none(world, "Environment")


def _python(patch: Manifest) -> Manifest:
    """A patch of the packages that leaves one origin of requirements."""
    origins: Manifest = {"requirements": None, "requirementsFrom": None, "requirementsFile": None}
    return {"python": {**origins, **patch}}


def _source(source: Manifest) -> Manifest:
    return _python({"requirementsFile": {"source": source}})


INLINE_FILE = {"inline": {"requirements.txt": "lightgbm"}}
GIT = {"url": "https://git.example.com/churn.git"}
RULES: tuple[Rule, ...] = (
    named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
    named("metadata.name must not contain a dot", "a-b", "a.b"),
    clash(
        "give one of requirements, requirementsFrom and requirementsFile",
        _python({"requirements": ["lightgbm"]}),
        _python({}),
        _python({"requirements": ["lightgbm"], "requirementsFile": {"source": INLINE_FILE}}),
    ),
    clash("give one of inline, configMap, git and uri", _source(INLINE_FILE), _source({})),
    clash(
        "digest applies to the archive at uri",
        _source({"uri": "s3://lake/a.tar", "digest": DIGEST}),
        _source({**INLINE_FILE, "digest": DIGEST}),
    ),
    clash("uri must name one archive", _source({"uri": "s3://lake/a.tar"}), _source({"uri": "s3://lake/a/"})),
    clash(
        "ssh needs a key",
        _source({"git": {"url": "git@git.example.com:churn.git", "secretRef": {"name": "git"}}}),
        _source({"git": {"url": "git@git.example.com:churn.git"}}),
    ),
    clash(
        "each key must be a plain file name",
        _source(INLINE_FILE),
        _source({"inline": {"a/b": ""}}),
    ),
    clash(
        "each key must be a plain file name that does not begin with two dots",
        _source(INLINE_FILE),
        _source({"inline": {"..a": ""}}),
    ),
    clash(
        "the files together have more than 900,000 characters",
        _source(INLINE_FILE),
        _source({"inline": {f"f{number}": "a" * 240000 for number in range(4)}}),
    ),
    clash(
        "must not have an empty name, '.' or '..' between slashes",
        _source({"uri": "s3://lake/a/b.tar"}),
        _source({"uri": "s3://lake/a/../b.tar"}),
    ),
)


def _complete(_: Manifest, spec: Manifest) -> None:
    drawn = spec.get("python", {}).get("requirements") or []
    spec["python"] = {"requirements": [line for line in drawn if line] or ["lightgbm"]}


MATERIAL = Material(
    kind="Environment",
    whole={
        "metadata": {"name": "tools"},
        "spec": {
            "image": "registry.example.com/base:1",
            "python": {"version": "3.11", "requirements": ["lightgbm==4.6.0", "--pre"]},
            "ttlSecondsAfterUnused": 86400,
        },
    },
    least=INLINE,
    edit={"ttlSecondsAfterUnused": 86400},
    free=({"ttlSecondsAfterUnused": 3600}, {"ttlSecondsAfterUnused": None}),
    rules=RULES,
    lives=(
        Life(
            "is built",
            (applied("Environment", "tools", INLINE),),
            _is_built,
            edits=({"ttlSecondsAfterUnused": 86400},),
            refused=(({"python": {"requirements": ["xgboost"]}}, "cannot be changed"),),
        ),
        Life("fails", (applied("Environment", "tools", INLINE),), _fails),
        Life("ends unused", (applied("Environment", "tools", {**INLINE, "ttlSecondsAfterUnused": 0}),), _ends),
    ),
    samples=(building_environment, plain_environment, deleted_environment),
    complete=_complete,
    neighbour=Neighbour(
        lambda name, _: applied("Environment", name, INLINE),
        children=(("Job", "NAME-build-1"),),
        pods=(("NAME-build-1-abcde", ("Job", "NAME-build-1")),),
    ),
    labels=(LABEL_SHARED,),
)
