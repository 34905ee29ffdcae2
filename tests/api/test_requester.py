"""Requester of an object: written by the API server, whatever its author writes, and without obstructing anyone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from bare import Api, eventually, merged, whole
from broken import plain, spelled
from strategies import KIND, OPEN, Path, replaced, schema
from ultramarine_contract.meta import (
    ANNOTATION_APPROVED_BY,
    ANNOTATION_REQUESTED_BY,
    ANNOTATION_TRUSTED_BY,
    Manifest,
    approver_of_alias,
)

TRUSTED = ("Model", "ModelVersion")
KINDS = ("TrainingJob", "Sweep", "OnlineEndpoint", *TRUSTED)
OPERATOR = "system:serviceaccount:default:ultramarine-operator"  # of the release in whose name the policies are made
# A value of another type for each type of a schema, with what the API server calls it.
OTHERS: dict[str, tuple[Any, ...]] = {
    "string": (0.5, True, ["a"], {"a": "b"}),
    "integer": ("1", 1.5, True, [], {}),
    "number": ("1", True, [], {}),
    "boolean": ("true", 1, [], {}),
    "array": ("a", 1, {}),
    "object": ("a", 1, ["a"]),
}


def mistakes(node: Manifest, value: Any, path: Path) -> Iterator[tuple[Path, Any, str]]:
    """Each typed place of a value, with another value for it and the words that the schema has for that."""
    if type := node.get("type"):
        for other in OTHERS[type]:
            yield path, other, f"in body must be of type {type}"
    if isinstance(value, list):
        for number, item in enumerate(value[:1]):
            yield from mistakes(node["items"], item, (*path, number))
    elif isinstance(value, dict) and not node.get(OPEN):
        for name, child in value.items():
            below = node.get("properties", {}).get(name) or node["additionalProperties"]
            yield from mistakes(below, child, (*path, name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_type_is_told_in_the_words_of_the_schema(namespace, kind):
    """Whatever field holds a value of another type, the answer names the field and the type that it must have."""
    api, hidden, number = namespace(), [], 0
    made = whole(kind)
    for path, other, words in mistakes(schema(kind, "spec"), made["spec"], ("spec",)):
        wrong = replaced(made, path, other)
        if path[-1] == "command" and isinstance(other, str):
            continue  # read as a list of one
        code, answer = send(api, "POST", kind, wrong, dry=True)
        said = plain(answer["message"])
        number += 1
        if code != 422 or f"{spelled(path)} {words}" not in said:
            hidden.append((spelled(path), other, said))

    assert number > (40 if kind in TRUSTED else 150)
    assert hidden == []


def send(
    api: Api, method: str, kind: str, manifest: Any, name: str = "", type: str = "", dry: bool = False, user: str = ""
) -> tuple[int, Manifest]:
    """Return the server's answer to a request with an object, or with a patch, perhaps in a user's name."""
    path = KIND[kind].resource.path(api.namespace, name)
    headers = {b"Content-Type": f"application/{type or 'json'}".encode()}
    headers |= {b"Impersonate-User": user.encode()} if user else {}
    answer = api.http.request(
        method,
        path,
        params={"fieldManager": "test"} | ({"dryRun": "All"} if dry else {}),
        content=json.dumps(manifest).encode(),
        headers=headers,
    )
    return answer.status_code, answer.json()


def numbered(kind: str, number: int, marks: Any) -> Manifest:
    """An object that is called a-NUMBER, with these annotations."""
    spec = {"model": "a", "version": str(number)} if kind == "ModelVersion" else {}
    return whole(kind, {"metadata": {"name": f"a-{number}", "annotations": marks}, "spec": spec})


@pytest.mark.attack(
    "author/requester",
    asset="the record of who asked",
    threat="an author, or somebody later, writes another name into it",
    control="the API server writes its own word into the annotation of every kind at creation and keeps it at every "
    "change (Kubernetes 1.36 or newer); elsewhere nobody is named. The operator alone may name another: what it makes "
    "of an object (trials, models, versions) inherits that one's author",
)
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_can_say_that_another_asked(namespace, kind):
    """However an object is made or changed, its annotation has the name of who made it; the operator alone names the
    author of what it makes it of.
    """
    api = namespace()
    who = json.loads(api.run("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    forged = {ANNOTATION_REQUESTED_BY: "somebody"}
    forger = f"system:serviceaccount:{api.namespace}:ultramarine-operator"
    editors = ("--clusterrole=cluster-admin", f"--user={OPERATOR}", f"--user={forger}")
    api.run("create", "rolebinding", "editors", *editors)
    eventually("they may edit", lambda: send(api, "POST", kind, numbered(kind, 9, {}), dry=True, user=forger)[0] == 201)
    for number, marks in enumerate((None, {}, {"a": "b"}, forged, {"a": "b", **forged}), 1):
        code, kept = send(api, "POST", kind, numbered(kind, number, marks))
        assert (code, kept["metadata"]["annotations"][ANNOTATION_REQUESTED_BY]) == (201, who), marks
        assert kept["metadata"]["labels"][ANNOTATION_REQUESTED_BY] == label(who)

    for user, marks, told in ((OPERATOR, forged, "somebody"), (OPERATOR, {}, OPERATOR), (forger, forged, forger)):
        code, given = send(api, "POST", kind, numbered(kind, 9, marks), dry=True, user=user)
        assert (code, given["metadata"]["annotations"][ANNOTATION_REQUESTED_BY]) == (201, told), user

    applied = numbered(kind, 1, forged)
    without = merged(kept, {"metadata": {"annotations": None}})
    place = f"/metadata/annotations/{ANNOTATION_REQUESTED_BY.replace('/', '~1')}"
    changes: list[tuple[str, str, Any, str]] = [
        ("PATCH", "a-1", {"metadata": {"labels": forged}}, "merge-patch+json"),
        ("PATCH", "a-1", {"metadata": {"labels": None}}, "merge-patch+json"),
        ("PATCH", "a-1", {"metadata": {"annotations": forged}}, "merge-patch+json"),
        ("PATCH", "a-1", {"metadata": {"annotations": {ANNOTATION_REQUESTED_BY: None}}}, "merge-patch+json"),
        ("PATCH", "a-1", {"metadata": {"annotations": None}}, "merge-patch+json"),
        ("PATCH", "a-1", [{"op": "replace", "path": place, "value": ""}], "json-patch+json"),
        ("PATCH", "a-1", [{"op": "remove", "path": "/metadata/annotations"}], "json-patch+json"),
        ("PATCH", "a-1?force=true", applied, "apply-patch+yaml"),
        ("PUT", "a-5", without, ""),
    ]
    for method, name, change, type in changes:
        code, kept = send(api, method, kind, change, name, type)
        assert (code, kept["metadata"]["annotations"].get(ANNOTATION_REQUESTED_BY)) == (200, who), (method, change)
        assert kept["metadata"]["labels"].get(ANNOTATION_REQUESTED_BY) == label(who), (method, change)


def label(user: str) -> str:
    """The label by which a user's objects are selected."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", user)


@pytest.mark.parametrize(
    ("user", "selects"),
    [
        ("ada", "ada"),
        ("ada@example.com", "ada_example.com"),
        ("system:serviceaccount:default:robot", "system_serviceaccount_default_robot"),
        ("https://id.example.com#42", "https___id.example.com_42"),
        ("Émile", "u_mileu"),
        ("@", "u_u"),
        ("a" * 40 + "@" + "b" * 61, "b" * 61),
    ],
)
def test_any_users_objects_can_be_selected(namespace, user, selects):
    """Whatever the name, its label is one that a label may be."""
    api = namespace()
    api.run("create", "rolebinding", "editor", "--clusterrole=cluster-admin", f"--user={user}")
    made = numbered("Model", 1, None)
    eventually("they may edit", lambda: send(api, "POST", "Model", made, dry=True, user=user)[0] == 201)
    code, kept = send(api, "POST", "Model", made, user=user)
    assert (code, kept["metadata"]["labels"][ANNOTATION_REQUESTED_BY]) == (201, selects)


def test_annotations_that_are_none_are_the_servers_to_refuse(namespace):
    """Annotations that are not a map of strings never reach the policy, or are refused as such."""
    api = namespace()
    for marks in ("a", ["a"], 1, {"a": 1}, {"a": {}}):
        made = whole("TrainingJob", {"metadata": {"annotations": marks}})
        code, answer = send(api, "POST", "TrainingJob", made, dry=True)
        assert code in (400, 422), answer
        assert "annotations" in answer["message"]
        assert "policy" not in answer["message"]


def trusting(kind: str, allowed: bool) -> Manifest:
    """Return a spec of the kind that allows or forbids code at loading."""
    return {"trust": {"allowCodeExecution": allowed}} if kind == "Model" else {"allowCodeExecution": allowed}


@pytest.mark.attack(
    "model/trusted-by",
    asset="who trusted a model",
    threat="a version runs code and no record says who allowed it, or an author writes another's name",
    control="the API server writes the user's name (Kubernetes 1.36 or newer), and the status shows it; for "
    "versions that a job registers it is who asked for the job",
)
@pytest.mark.parametrize("kind", TRUSTED)
def test_who_allowed_code_is_written_by_the_server(namespace, kind):
    """The annotation has who made or changed the object so that it allows code; nobody forges, keeps or loses it."""
    api = namespace()
    who = json.loads(api.run("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    name = whole(kind)["metadata"]["name"]
    forged = {ANNOTATION_TRUSTED_BY: "somebody"}

    def sent(method: str, spec: Manifest | None, marks: Any) -> str | None:
        patch = {"metadata": {"annotations": marks}} | ({"spec": spec} if spec else {})
        made = merged(whole(kind), patch) if method == "POST" else patch
        where, type = ("", "") if method == "POST" else (name, "merge-patch+json")
        code, kept = send(api, method, kind, made, where, type)
        assert code in (200, 201), kept
        return (kept["metadata"].get("annotations") or {}).get(ANNOTATION_TRUSTED_BY) or None

    yes, no = trusting(kind, True), trusting(kind, False)
    assert sent("POST", no, forged) is None
    assert sent("PATCH", None, forged) is None
    assert sent("PATCH", yes, forged) == who
    assert sent("PATCH", None, {ANNOTATION_TRUSTED_BY: None}) == who
    assert sent("PATCH", None, forged) == who
    assert sent("PATCH", no, {}) is None
    assert sent("PATCH", yes, None) == who
    api.run("delete", kind, name)
    for marks in (None, {}, {"a": "b"}, forged):
        assert sent("POST", yes, marks) == who
        api.run("delete", kind, name)


def editors(api: Api, *users: str) -> None:
    """Let users change everything in the namespace."""
    api.run("create", "rolebinding", "movers", "--clusterrole=cluster-admin", *(f"--user={user}" for user in users))
    ready = whole("Model", {"metadata": {"name": "probe"}})
    eventually(
        "they may edit", lambda: all(send(api, "POST", "Model", ready, dry=True, user=u)[0] == 201 for u in users)
    )


@pytest.mark.attack(
    "model/approved-by",
    asset="who decided what is served",
    threat="a user moves an alias, or changes what an endpoint serves, in another's name",
    control="the API server writes the user of each move into an annotation (Kubernetes 1.36 or newer), and the "
    "records of lineage have the user",
)
@pytest.mark.parametrize("kind", ["Model", "Dataset"])
def test_who_moved_an_alias_is_written_by_the_server(namespace, kind):
    """Each alias has the user of its last move; another change, and what a user writes there, leave it."""
    api = namespace()
    editors(api, "ada", "eve", OPERATOR)
    champion, golden = approver_of_alias("champion"), approver_of_alias("golden")

    def sent(user: str, aliases: Manifest | None = None, **marks: str | None) -> tuple[str, str]:
        names = {"champion": champion, "golden": golden}
        annotations = {names[alias]: user for alias, user in marks.items()}
        change: Manifest = {"metadata": {"annotations": annotations}} | (
            {"spec": {"aliases": aliases}} if aliases else {}
        )
        code, kept = send(api, "PATCH", kind, change, "a", "merge-patch+json", user=user)
        assert code == 200, kept
        written = kept["metadata"]["annotations"]
        return written.get(champion, ""), written.get(golden, "")

    for dry, marks in ((True, {"a": "b"}), (True, {champion: "ada"}), (False, None)):
        made = whole(kind, {"metadata": {"name": "a", "annotations": marks}, "spec": {"aliases": None}})
        made["spec"]["aliases"] = {"champion": "1"}
        code, kept = send(api, "POST", kind, made, dry=dry, user="eve")
        assert (code, kept["metadata"]["annotations"][champion]) == (201, "eve"), kept
    assert sent("ada", {"golden": "1"}) == ("eve", "ada")
    assert sent("eve", golden="eve", champion=None) == ("eve", "ada")
    assert sent("ada", {"champion": "2"}, champion="eve") == ("ada", "ada")
    assert sent("eve", {"champion": None, "golden": "2"}, champion="eve")[1] == "eve"
    assert sent("ada", {"champion": "2"}) == ("ada", "eve")
    assert sent(OPERATOR, {"champion": "3"}, champion="eve") == ("eve", "eve")  # which publishes in her name
    assert sent(OPERATOR, {"golden": "3"}, golden=None) == ("eve", OPERATOR)


@pytest.mark.attack("model/approved-by")
def test_who_changed_what_is_served_is_written_by_the_server(namespace):
    """An endpoint has the user of the last change of its models, traffic or rollout; replicas are no such change."""
    api = namespace()
    editors(api, "ada", "eve")

    def sent(user: str, model: str, replicas: int, **metadata: Any) -> str:
        deployment = {"name": "blue", "model": model, "replicas": replicas}
        change = {"metadata": metadata, "spec": {"deployments": [deployment]}}
        code, kept = send(api, "PATCH", "OnlineEndpoint", change, "a", "merge-patch+json", user=user)
        assert code == 200, kept
        return str(kept["metadata"]["annotations"][ANNOTATION_APPROVED_BY])

    spec = {"deployments": [{"name": "blue", "model": "churn@1"}]}
    made = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "OnlineEndpoint", "metadata": {"name": "a"}, "spec": spec}
    code, kept = send(api, "POST", "OnlineEndpoint", made, user="eve")
    assert (code, kept["metadata"]["annotations"][ANNOTATION_APPROVED_BY]) == (201, "eve"), kept
    assert sent("ada", "churn@1", 2) == "eve"
    assert sent("ada", "churn@2", 2, annotations={ANNOTATION_APPROVED_BY: "eve"}) == "ada"
    assert sent("eve", "churn@2", 1, annotations={ANNOTATION_APPROVED_BY: "eve"}) == "ada"
