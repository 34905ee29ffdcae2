"""References to Environments: their names, and what becomes of them."""

from __future__ import annotations

import pytest
from builders import DIGEST, PLATFORM, seen, sweep
from pydantic import ValidationError
from ultramarine.resources.environment import EnvironmentReference
from ultramarine.resources.pods import Source
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Key
from ultramarine_operator.engine import reconcile
from ultramarine_operator.engine.mirror import Mirror
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.environment.testing import URI, built, environment
from ultramarine_operator.kube.client import ApiError
from ultramarine_operator.shared import environments
from ultramarine_operator.shared.conditions import find as find_condition
from ultramarine_operator.shared.environments import (
    LABEL_SHARED,
    PYTHON,
    Awaited,
    Failed,
    Usable,
    find_environment,
    name_of,
    remedy_of_failure,
    topic,
    topic_of,
)

NAMED = EnvironmentReference(name="tools")
WRONG = ["numpy", "git+https://example.org/x.git"]
INLINE = EnvironmentReference(requirements=["lightgbm==4.6.0"])


def find(reference, *made, **more):
    """Return what becomes of a reference of an object."""
    return find_environment(environment(), reference, seen(related=tuple(e.manifest for e in made)), **more)


def test_an_archive_that_is_stored_is_used():
    """A pod gets place, digest and size."""
    assert find(NAMED, environment(status=built())) == Usable("tools", EnvironmentArchive(URI, DIGEST, 2**20))


def test_an_environment_that_does_not_exist_is_awaited():
    """One with a name is its author's to make; for requirements one is made."""
    named, inline = find(NAMED), find(INLINE)

    assert isinstance(named, Awaited)
    assert named.create is None
    assert isinstance(inline, Awaited)
    assert inline.create is not None
    assert inline.create["metadata"]["name"] == inline.name
    assert inline.create["metadata"]["labels"] == {LABEL_SHARED: "true"}
    assert inline.create["spec"] == {"python": {"requirements": ["lightgbm==4.6.0"]}}
    assert "ownerReferences" not in inline.create["metadata"]


def test_equal_requirements_share_one_name():
    """Image and lines make the name; a file of an inline source is the same as its lines."""
    source = Source(inline={"a.txt": "# packages\nlightgbm==4.6.0\n"})
    file = EnvironmentReference(requirements_file="a.txt")

    assert name_of(INLINE) == name_of(file, source=source)
    assert name_of(INLINE) != name_of(INLINE, image="base:1")
    assert topic({"requirements": ["lightgbm==4.6.0"]}) == {topic_of(name_of(INLINE))}
    assert topic({"requirements": [1]}) == topic(None) == frozenset()


@pytest.mark.parametrize("source", [None, Source(inline={"b.txt": ""})])
def test_a_file_that_the_source_lacks_is_named(source):
    """Its author learns of it before anything is built."""
    with pytest.raises(InvalidSpec, match=r"a\.txt"):
        find(EnvironmentReference(requirements_file="a.txt"), source=source)


def test_a_line_that_no_build_takes_is_named():
    """No shared Environment is made of it."""
    source = Source(inline={"a.txt": "numpy\ngit+https://example.org/x.git"})
    with pytest.raises(InvalidSpec, match=r"line 2 of a\.txt in source\.inline .* a build reads no git"):
        find(EnvironmentReference(requirements_file="a.txt"), source=source)


@pytest.mark.parametrize("lines", [["# lightgbm"], ["--index-url https://packages.example/simple", " "]])
def test_requirements_without_a_package_are_refused(lines):
    """Comments and options alone would be refused by a pod."""
    with pytest.raises(ValidationError, match="must name a package; there are only comments and options"):
        EnvironmentReference(requirements=lines)


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("Environment", {"python": {"requirements": WRONG}}, "spec.python.requirements.1"),
        ("TrainingJob", {"command": ["ls"], "environment": {"requirements": WRONG}}, "spec.environment.requirements.1"),
        (
            "OnlineEndpoint",
            {"deployments": [{"name": "a", "model": "m@1", "environment": {"requirements": WRONG}}]},
            "spec.deployments.0.environment.requirements.1",
        ),
        (
            "Sweep",
            {
                **sweep().manifest["spec"],
                "trialTemplate": {"spec": {"command": ["ls"], "environment": {"requirements": WRONG}}},
            },
            "spec.trialTemplate.spec.environment.requirements.1",
        ),
    ],
)
async def test_an_object_with_such_a_line_is_not_accepted(monkeypatch, kind, spec, field):
    """The condition names the field, the line and what to write; nothing is made of the object."""
    statuses = []

    async def write_status(client, resource, manifest, status):
        statuses.append(status)
        raise ApiError(404, "NotFound", "deleted meanwhile")

    monkeypatch.setattr(reconcile, "write_status", write_status)
    mirror, key = Mirror(KINDS), Key(kind, "team-a", "a")
    given = {"kind": kind, "metadata": {"name": "a", "namespace": "team-a", "uid": "u", "generation": 1}, "spec": spec}
    mirror.put(next(each.resource for each in KINDS if each.name == kind), given)
    worker = reconcile.Reconciler(KINDS, mirror, None, None, None, None, PLATFORM)
    await worker.reconcile(key)

    accepted = find_condition(statuses[0], "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert accepted["message"].startswith(f"{field}: must be one line with a package such as lightgbm==4.6")


@pytest.mark.parametrize(
    ("conditions", "outcome", "words"),
    [
        ([{"type": "Ready", "status": "False", "reason": "Building", "message": "it is at work"}], Awaited, "at work"),
        ([{"type": "Failed", "status": "True", "reason": "NotFound", "message": "no lightgbmm"}], Failed, "lightgbmm"),
        ([], Awaited, "its build begins"),
    ],
)
def test_the_words_of_the_build_reach_its_users(conditions, outcome, words):
    """A job that waits or fails says what its Environment says."""
    got = find(NAMED, environment(status={"conditions": conditions}))

    assert isinstance(got, outcome)
    assert words in got.message


def test_an_environment_of_another_image_is_refused():
    """Its packages may not load in the image of the pod."""
    of = environment({"image": "base:1", "python": {"requirements": ["a"]}}, built())

    assert isinstance(find(NAMED, of), Usable)
    refused = find(NAMED, of, image="base:2")
    assert isinstance(refused, Failed)
    assert refused.message.endswith("name an Environment with that image, or leave the image out here")


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        ({"requirements": ["lightgbm==4.6.0"], "version": ""}, Usable),
        ({"requirements": ["lightgbm==4.6.0"], "version": "3.11"}, Failed),
        ({"requirements": ["evil"]}, Failed),
        ({}, Failed),
    ],
)
def test_the_name_of_a_shared_environment_is_not_trusted(content, outcome):
    """Anybody in the namespace can make an object of that name first; how long it stays does not matter."""
    of = environment(status=built())
    of.manifest["metadata"]["name"] = name_of(INLINE)
    of.manifest["spec"] = {"python": content, "ttlSecondsAfterUnused": 60}
    got = find(INLINE, of)

    assert isinstance(got, outcome)
    assert outcome is Usable or f"{name_of(INLINE)} does not have the content of its name; delete it" in got.message


def test_an_environment_of_another_python_is_refused(monkeypatch):
    """A release with another Python makes shared ones again; one with a name is its author's to delete."""
    before, on_image = name_of(INLINE), name_of(INLINE, image="base:1")
    assert isinstance(find(NAMED, environment(status=built(pythonVersion=f"{PYTHON}.2"))), Usable)

    monkeypatch.setattr(environments, "PYTHON", "3.99")
    got = find(NAMED, environment(status=built(pythonVersion=f"{PYTHON}.2")))
    own = environment({"image": "base:1", "python": {"requirements": ["a"]}}, built(pythonVersion="3.8.1"))

    assert isinstance(got, Failed)
    assert f"was built for Python {PYTHON}, the platform has 3.99; delete it" in got.message
    assert name_of(INLINE) != before
    assert name_of(INLINE, image="base:1") == on_image
    assert isinstance(find(NAMED, own), Usable)


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        ({}, "apply it under another name, or delete Environment tools to have it built again"),
        ({LABEL_SHARED: "true"}, "change the requirements of its jobs and endpoints, or delete Environment tools"),
    ],
)
def test_the_remedy_of_a_failed_build_is_given_by_name(labels, remedy):
    """A spec cannot be changed, and the remedy is read in statuses of other objects too."""
    of = environment().manifest
    of["metadata"]["labels"] = labels
    assert remedy in remedy_of_failure(of)
    status = {"type": "Failed", "status": "True", "message": f"no lightgbmm; {remedy_of_failure(of)}"}
    of["status"] = {"conditions": [status]}
    got = find_environment(environment(), NAMED, seen(related=(of,)))
    assert isinstance(got, Failed)
    assert got.message == f"Environment tools has failed: no lightgbmm; {remedy_of_failure(of)}"
