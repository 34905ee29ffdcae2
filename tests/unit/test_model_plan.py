"""Plans of Models and ModelVersions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import DIGEST, NOW, PLATFORM, condition, model, ours, read, seen, version
from ultramarine_contract.errors import StorageError
from ultramarine_operator.kinds.model.plan import plan_model, plan_version, questions_version
from ultramarine_operator.shared.questions import ArtifactFacts, CheckArtifact

ASK = CheckArtifact("s3://lake/churn/1/")


def one_version(status=None, **spec):
    """ModelVersion churn-1 as it was applied."""
    return read(ours("ModelVersion", "churn-1", {**version(1)["spec"], **spec}, status))


def test_a_model_counts_its_versions():
    """Versions, the newest, the newest ready one, and the aliases are in the status."""
    got = plan_model(read(model(aliases={"champion": 1})), seen(related=(version(1), version(2, ready=False))), NOW)

    assert (got.status["versions"], got.status["latestVersion"], got.status["latestReadyVersion"]) == (2, "2", "1")
    assert got.status["aliases"] == "champion=1"
    assert condition(got, "Ready")["status"] == "True"


def test_the_highest_number_is_remembered():
    """Deleting the newest version does not lower latestVersion: its number is never given again."""
    former = model()
    former["status"] = {"latestVersion": "9"}
    assert plan_model(read(former), seen(related=(version(2),)), NOW).status["latestVersion"] == "9"


def test_an_alias_to_nowhere_is_named():
    """An alias of a version that is not there makes the Model not Ready, with what there is."""
    got = plan_model(read(model(aliases={"champion": "7"})), seen(related=(version(1),)), NOW)
    assert "champion -> 7 (there are: 1)" in condition(got, "Ready")["message"]


RETIRING = model(aliases={"champion": "1"}, retention={"versions": 2})


def retired(got):
    """The versions that a plan deletes."""
    return [ref.name for ref in got.delete]


def test_retention_does_not_mind_a_pool():
    """An endpoint whose deployment is a pool names no version."""
    pool = {"selector": {"matchLabels": {"a": "b"}}}
    endpoint = ours("OnlineEndpoint", "one", {"deployments": [{"name": "many", "pool": pool}]})
    got = plan_model(read(RETIRING), seen(related=(endpoint, *map(version, range(1, 5)))), NOW)

    assert retired(got) == ["churn-2"]


def test_retention_keeps_the_newest_ready_versions_and_those_with_a_name():
    """Older ones are deleted, ready or not, but for what an alias means; and the diary says so."""
    versions = (version(1), version(2, ready=False), version(3), version(4), version(5), version(6, ready=False))
    got = plan_model(read(RETIRING), seen(related=versions), NOW)

    assert retired(got) == ["churn-2", "churn-3"]
    assert got.status["versions"] == 4
    assert [event.reason for event in got.events] == ["VersionsRetired"]
    assert "churn-2, churn-3" in got.events[0].message


@pytest.mark.parametrize(
    ("deployment", "status"),
    [
        ({"model": "churn@3"}, {}),
        ({"model": "churn@latest"}, {"modelVersion": "churn-3"}),
        ({"model": "churn@latest"}, {"modelVersion": "churn-3 and churn-5"}),
        ({"model": "churn@latest"}, {"deployments": [{"name": "blue", "modelVersion": "churn-3"}]}),
    ],
)
def test_retention_spares_what_an_endpoint_serves(deployment, status):
    """A version that an endpoint names, or whose pods are still to be replaced, stays."""
    serving = ours("OnlineEndpoint", "churn", {"deployments": [{"name": "blue", **deployment}]}, status)
    versions = (version(2), version(3), version(4), version(5))

    assert retired(plan_model(read(RETIRING), seen(related=(*versions, serving)), NOW)) == ["churn-2"]


@pytest.mark.parametrize(
    ("pool", "labels", "aliases", "gone"),
    [
        ({}, {"tier": "small"}, {}, ["churn-2", "churn-3"]),
        ({"alias": "stable"}, {"tier": "small"}, {"stable": "3"}, ["churn-2"]),
        ({"alias": "stable"}, {"tier": "small"}, {}, []),
        ({"alias": "stable"}, {"tier": "small"}, {"stable": "9"}, []),
        ({"alias": "stable"}, {"tier": "large"}, {}, ["churn-2", "churn-3"]),
        ({"alias": "stable"}, {}, {}, ["churn-2", "churn-3"]),
    ],
)
def test_retention_spares_what_a_pool_serves(pool, labels, aliases, gone):
    """Versions that a pool serves stay; all stay while the pool selects none, since it keeps its last one."""
    many = {"name": "many", "pool": {"selector": {"matchLabels": {"tier": "small"}}, **pool}}
    serving = ours("OnlineEndpoint", "shops", {"deployments": [many]})
    churn = model(aliases=aliases, retention={"versions": 2})
    churn["metadata"]["labels"] = labels
    versions = (version(2), version(3), version(4), version(5))

    assert retired(plan_model(read(churn), seen(related=(*versions, serving)), NOW)) == gone


def test_retention_deletes_nothing_before_there_are_enough():
    """With fewer ready versions than are to be kept, none goes; nor without retention at all."""
    few = (version(1), version(2), version(3, ready=False))
    assert retired(plan_model(read(model(retention={"versions": 3})), seen(related=few), NOW)) == []
    assert retired(plan_model(read(model()), seen(related=few), NOW)) == []


def test_a_version_shows_the_metrics_of_its_training():
    """As many as a column has room for."""
    got = plan_version(one_version(lineage={"metrics": {"accuracy": 0.97, "loss": 0.1}}), seen(), NOW)
    assert got.status["score"] == "accuracy=0.97 loss=0.1"


def test_a_version_is_ready_when_its_artifact_is_the_one_named():
    """The storage's manifest has the digest that the version names."""
    got = plan_version(one_version(), seen(answers={ASK: ArtifactFacts(DIGEST, 42)}), NOW)
    assert (got.status["state"], got.status["bytes"]) == ("Ready", 42)
    assert condition(got, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    ("uri", "digest", "words"),
    [
        ("s3://lake/m/1/", DIGEST, "its list of files has spec.digest; the servers check the files when they load"),
        ("s3://lake/team-a/m.onnx", DIGEST, "stored, and its content has spec.digest"),
        ("s3://lake/shared/m.onnx", "", "not verified yet, for it has more than 32 MiB; the servers check it"),
        ("s3://other/m.onnx", "", "not verified yet, for it is not below s3://lake/team-a/; the servers check it"),
    ],
)
def test_a_version_says_what_of_it_is_verified(uri, digest, words):
    """Ready says what was compared, and what only a server compares; a later pass says the same."""
    [question] = questions_version(one_version(uri=uri), seen())
    facts = ArtifactFacts(digest, 42 if digest else 64 * 2**20)
    got = plan_version(one_version(uri=uri), seen(answers={question: facts}), NOW)
    assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Ready", "ArtifactFound")
    assert words in condition(got, "Ready")["message"]
    assert condition(plan_version(one_version(got.status, uri=uri), seen(), NOW), "Ready") == condition(got, "Ready")


def test_another_digest_is_refused():
    """An artifact that was exchanged is not served."""
    got = plan_version(one_version(), seen(answers={ASK: ArtifactFacts("sha256:" + "b" * 64, 42)}), NOW)
    assert condition(got, "Ready")["reason"] == "DigestMismatch"
    assert DIGEST in condition(got, "Ready")["message"]


@pytest.mark.attack("author/foreign-artifact")
def test_what_others_have_stored_is_neither_read_nor_told():
    """The operator's keys may open more than the namespace's: a false digest must not make it tell the right one."""
    for uri, hashes, is_told in (
        ("s3://lake/team-a/m.onnx", True, True),
        ("s3://lake/shared/m.onnx", True, False),
        ("s3://lake/team-b/m.onnx", False, False),
        ("s3://lake/team-a-too/m.onnx", False, False),
        ("s3://other/team-a/m.onnx", False, False),
        ("s3://other/m/1/", False, False),
    ):
        churn, other = one_version(uri=uri), "sha256:" + "b" * 64
        assert questions_version(churn, seen()) == (CheckArtifact(uri, hashes),)
        got = plan_version(churn, seen(answers={CheckArtifact(uri, hashes): ArtifactFacts(other, 42)}), NOW)
        assert condition(got, "Ready")["reason"] == "DigestMismatch"
        assert (other in str((got.status, got.events))) == is_told, uri


def test_a_missing_artifact_is_looked_for_again():
    """The storage's own words are the message, and the question is asked again later."""
    got = plan_version(one_version(), seen(answers={ASK: StorageError("nothing at s3://…", "ObjectNotFound")}), NOW)
    assert condition(got, "Ready")["reason"] == "ObjectNotFound"
    assert got.after is not None


def test_a_version_found_right_is_not_asked_about_again():
    """A settled version costs no request to the storage."""
    ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "ArtifactFound"}], "bytes": 42}
    settled = one_version(ready)
    assert questions_version(settled, seen()) == ()
    assert plan_version(settled, seen(), NOW).status["bytes"] == 42


def test_formats_that_run_code_want_a_word():
    """A pickle is refused until allowCodeExecution is set."""
    pickle = {"format": {"name": "pickle"}}
    got = plan_version(one_version(**pickle), seen(answers={ASK: ArtifactFacts(DIGEST, 42)}), NOW)
    assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Refused", "CodeExecutionRefused")

    allowed = one_version(**pickle, allowCodeExecution=True)
    assert plan_version(allowed, seen(answers={ASK: ArtifactFacts(DIGEST, 42)}), NOW).status["state"] == "Ready"


@pytest.mark.attack(
    "author/foreign-artifact",
    asset="another namespace's artifacts",
    threat="a ModelVersion names a URI there, and the operator's own keys look it up",
    control="with the embedded storage the operator asks only for what lies in the version's namespace or in "
    "`shared/`; with any storage it reads no object of elsewhere for its digest, and tells no digest of "
    "one",
)
@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("s3://lake/team-a/m/1/", True),
        ("s3://lake/shared/m/1/", True),
        ("s3://other/m/1/", False),
        ("s3://lake/team-b/m/1/", False),
        ("s3://lake/team-a-too/m/1/", False),
    ],
)
def test_the_operator_does_not_look_at_another_namespaces_artifacts(uri, asked):
    """With keys for each namespace, a version cannot make the operator read objects that these keys do not open."""
    confined = replace(seen(), platform=replace(PLATFORM, storage_confined=True))
    churn = one_version(uri=uri)

    assert questions_version(churn, confined) == ((CheckArtifact(uri),) if asked else ())
    assert questions_version(churn, seen()) == (CheckArtifact(uri),)
    if not asked:
        got = plan_version(churn, confined, NOW)
        assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Refused", "AccessDenied")
        assert "copy the model to below s3://lake/team-a/" in condition(got, "Ready")["message"]
