"""Manifests by the thousand, made from our own schemas: what is right converges, what is wrong is refused in words."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bare import RESOURCES, Api
from broken import CLASHES, Broken, broken, plain, spelled
from ground import Ground, difference, where
from hands import complete_job, ended_pod, failed_job, now, pod_of
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from operator_process import BUCKET, Operator
from poison import CHILDREN, NEIGHBOURS, PODS, Poison, ends, poisons
from strategies import (
    GONE,
    KIND,
    NAMES,
    OPEN,
    Path,
    fixed_fields,
    json_values,
    replaced,
    schema,
    specs,
    valid,
    whole,
    with_fixed,
)
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.storage import Storage
from ultramarine_operator.shared.conditions import find, is_true
from ultramarine_operator.shared.testing import merged
from unit.conftest import ObjectStore

MANIFESTS = int(os.environ.get("ULTRAMARINE_MISUSE", "1000"))
SEED = int(os.environ.get("ULTRAMARINE_MISUSE_SEED", "0"))
pytestmark = pytest.mark.timeout(600 + MANIFESTS)
SENT: Counter[tuple[str, str]] = Counter()  # manifests by property and kind


def examples(share: float, each: float = 1.0) -> Callable[[Any], Any]:
    """Spend a share of the manifests on a property, `each` in an example; size and seed give the same ones again."""
    often = settings(
        max_examples=max(round(MANIFESTS * share / each), 1),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(SEED)(often(test))


def judged(
    api: Api, kind: str, manifest: Manifest | str, validation: str = "Strict", name: str = ""
) -> tuple[int, Manifest]:
    """Return the server's answer to a new object, or to a replacement of `name`, without storing it."""
    answer = api.http.request(
        "PUT" if name else "POST",
        KIND[kind].resource.path(api.namespace, name),
        params={"dryRun": "All", "fieldValidation": validation},
        content=(manifest if isinstance(manifest, str) else json.dumps(manifest)).encode(),
        headers={"Content-Type": "application/json"},
    )
    return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def empty(namespace) -> Api:
    """A namespace in which nothing is ever stored."""
    return namespace()


@pytest.mark.parametrize("kind", NAMES)
def test_the_generator_makes_what_is_admitted(empty, kind):
    """Nearly everything that is made as valid is admitted: else the other properties would test nothing."""
    answers: Counter[int] = Counter()
    refusals = []

    @examples(0.1 / len(NAMES))
    @given(valid(kind))
    def each(manifest: Manifest) -> None:
        SENT["admitted", kind] += 1
        code, answer = judged(empty, kind, manifest)
        answers[code] += 1
        if code != 201:
            refusals.append(answer["message"])

    each()
    # Few are made in `make test`, so that one alone may be more than 5 %.
    assert len(refusals) <= max(1, 0.05 * answers.total()), refusals[:5]


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_broken_is_refused_by_the_name_of_the_field(empty, kind):
    """A valid manifest that was broken in one place is refused, in words that name that place."""

    @examples(0.55 / len(NAMES))
    @given(broken(kind))
    def each(wrong: Broken) -> None:
        SENT["refused", kind] += 1
        code, answer = judged(empty, kind, wrong.manifest)
        if code == 413:  # a text of four bytes a letter may be too long for any request
            assert wrong.how == "too long"
            return
        assert code in (400, 422), answer.get("message", answer)
        assert wrong.field in plain(answer["message"]), answer["message"]
        assert "should match" not in answer["message"], "people cannot read a regular expression"

    each()


@pytest.mark.parametrize("kind", [kind for kind, clashes in CLASHES.items() if clashes])
def test_every_clash_of_fields_is_refused(empty, kind):
    """Each combination that is forbidden is refused in its own words, whatever stands beside it."""

    @examples(0.02 / len(CLASHES), each=len(CLASHES[kind]))
    @given(valid(kind))
    def each(manifest: Manifest) -> None:
        for words, patch in CLASHES[kind]:
            SENT["clashing", kind] += 1
            code, answer = judged(empty, kind, merged(manifest, patch))
            assert code == 422, f"{words}: {answer.get('message', answer)}"
            assert words in answer["message"], f"{words}: {answer['message']}"

    each()


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_not_known_is_refused_or_left_out(empty, kind):
    """An unknown field is refused by name, or not kept where the client asked for no check; a null is no value."""

    @examples(0.05 / len(NAMES), each=3)
    @given(valid(kind), st.data())
    def each(manifest: Manifest, data: st.DataObject) -> None:
        SENT["unknown", kind] += 3
        path, optional = data.draw(st.sampled_from(list(objects(schema(kind, "spec"), manifest["spec"], ("spec",)))))
        _, kept = judged(empty, kind, manifest)
        odd = replaced(manifest, (*path, "nosuch"), data.draw(json_values()))
        code, answer = judged(empty, kind, odd)
        assert code == 400, answer
        assert f'unknown field "{spelled((*path, "nosuch"))}' in plain(answer["message"])
        code, answer = judged(empty, kind, odd, validation="Ignore")
        assert (code, answer.get("spec")) == (201, kept["spec"])
        if optional:
            nothing = replaced(manifest, (*path, name := data.draw(st.sampled_from(optional))), None)
            without = replaced(manifest, (*path, name), GONE)
            (one, said), (other, also) = judged(empty, kind, nothing), judged(empty, kind, without)
            assert (one, said.get("spec")) == (other, also.get("spec"))

    each()


@pytest.mark.parametrize("kind", [name for name in NAMES if fixed_fields(schema(name, "spec"))])
def test_what_is_fixed_cannot_be_changed(empty, kind):
    """Whatever a fixed field was and shall become, the change is refused in words that name it."""
    fixed = fixed_fields(schema(kind, "spec"))

    @examples(0.05 / len(NAMES), each=4)
    @given(valid(kind), specs(kind), st.sampled_from(fixed))
    def each(manifest: Manifest, other: Manifest, name: str) -> None:
        # Both with their defaults: to leave a field out may be to write its default.
        (_, kept), (_, turned) = judged(empty, kind, manifest), judged(empty, kind, whole(kind, "a", other))
        assume(kept["spec"].get(name, GONE) != (value := turned["spec"].get(name, GONE)))
        SENT["fixed", kind] += 4
        resource, title = KIND[kind].resource, manifest["metadata"]["name"]
        made = empty.http.post(resource.path(empty.namespace), json=manifest).json()
        try:
            changed = replaced(made, ("spec", name), value)
            code, answer = judged(empty, kind, changed, name=title)
            assert code == 422, answer
            assert re.search(rf"{name} cannot be changed|spec\.{name}: Required", answer["message"]), answer["message"]
        finally:
            empty.http.delete(resource.path(empty.namespace, title))

    each()


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_no_json_is_refused(empty, kind):
    """Numbers that are none, what is nested for ever, and the like, anywhere in a manifest, are the client's fault."""

    @examples(0.05 / len(NAMES))
    @given(valid(kind), st.sampled_from(NO_JSON), st.data())
    def each(manifest: Manifest, token: str, data: st.DataObject) -> None:
        SENT["no JSON", kind] += 1
        path, _ = data.draw(st.sampled_from(list(objects(schema(kind, "spec"), manifest["spec"], ("spec",)))))
        text = json.dumps(replaced(manifest, (*path, "nosuch"), "TOKEN")).replace('"TOKEN"', token)
        code, answer = judged(empty, kind, text)
        assert code == 400, answer
        assert re.search("json|unmarshal|invalid character|unknown field", answer["message"]), answer["message"]

    each()


NO_JSON = ["NaN", "-Infinity", "1e400", "0x10", "'a'", "{", "01", "\x00", "[" * 20_000, "undefined", "1" * 400]


def objects(node: Manifest, value: Any, path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every object in a value that has named fields: where it is, and which of those that are there may be left out."""
    if isinstance(value, list):
        for number, item in enumerate(value) if not node.get(OPEN) else ():
            yield from objects(node["items"], item, (*path, number))
    elif isinstance(value, dict) and "additionalProperties" in node:
        for key, child in value.items():
            yield from objects(node["additionalProperties"], child, (*path, key))
    elif isinstance(value, dict) and not node.get(OPEN):
        yield path, [name for name in value if name not in node.get("required", [])]
        for name, child in value.items():
            yield from objects(node["properties"][name], child, (*path, name))


# ---- With the operator


@pytest.fixture(scope="module")
def ground(namespace, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A namespace in which the operator runs, with one Model, `shop`, that has two versions."""
    api = namespace()
    (object_store.folder / BUCKET).mkdir(exist_ok=True)
    operator = Operator(api, object_store, tmp_path_factory.mktemp("misuse") / "operator.log")
    operator.start()
    ground = Ground(api, operator)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.credentials.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("model")
        (folder / "model.skops").write_text("weights")
        record = Storage(object_store.endpoint).upload_folder(folder, f"s3://{BUCKET}/shop", "sklearn")
    ground.artifact = {"uri": record.uri, "digest": record.digest, "format": {"name": "sklearn"}}
    kept = {"labels": {"keep": "yes"}}
    ground.create(named("Model", "shop", {"aliases": {"champion": "1"}}, **kept))
    for number in ("1", "2"):
        ground.create(
            named("ModelVersion", f"shop-{number}", {"model": "shop", "version": number, **ground.artifact}, **kept)
        )
    yield ground
    operator.kill()


def named(kind: str, name: str, spec: Manifest, **meta: Any) -> Manifest:
    """An object of ours."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


def observed(found: Manifest) -> bool:
    """True if an object's status describes its present spec."""
    return bool(found) and (found.get("status") or {}).get("observedGeneration") == found["metadata"]["generation"]


def with_models(spec: Manifest, models: list[str]) -> Manifest:
    """A spec whose deployments, if it has some, serve these models."""
    if "deployments" not in spec:
        return spec
    pairs = zip(spec["deployments"], models, strict=False)
    return {**spec, "deployments": [with_model(deployment, model) for deployment, model in pairs]}


def with_model(deployment: Manifest, model: str) -> Manifest:
    """A deployment of this model, a pool too; without one it stays as it is."""
    return {**{k: v for k, v in deployment.items() if k != "pool"}, "model": model} if model else deployment


MODELS = ("shop@1", "shop@2", "shop@latest", "shop@champion")


def live(kind: str) -> st.SearchStrategy[Manifest]:
    """Specs of a kind; endpoints mostly serve what there is."""
    return st.builds(with_models, specs(kind), st.lists(st.sampled_from(["", *MODELS]), min_size=3, max_size=3))


@pytest.mark.parametrize("kind", NAMES)
def test_valid_objects_converge_or_say_why(ground, kind):
    """Whatever is admitted soon has a status of its generation with a condition that says how it is and why."""

    @examples(0.12 / len(NAMES), each=4)
    @given(st.lists(live(kind), min_size=1, max_size=8))
    def each(drawn: list[Manifest]) -> None:
        try:
            made = [ground.create(whole(kind, ground.name(), spec)) for spec in drawn]
            SENT["converged", kind] += len(made)
            for found in ground.wait_for_all([where(each) for each in made], observed):
                told = [c for c in found["status"].get("conditions", []) if c["message"] and c["reason"]]
                assert told, found["status"]
                assert {c["observedGeneration"] for c in told} == {found["metadata"]["generation"]}
        finally:
            ground.clear()
        assert not (bug := ground.quarrel()), bug

    each()


def steps(kind: str) -> st.SearchStrategy[list[Manifest | None]]:
    """Return the steps of one object: specs that are applied in turn, the last of them stays; None deletes."""
    return st.builds(
        lambda before, last: [*before, last], st.lists(st.none() | settled(kind), min_size=1, max_size=6), settled(kind)
    )


def settled(kind: str) -> st.SearchStrategy[Manifest]:
    """Specs whose end does not depend on what was there before.

    A deployment that can get no pods, now or ever, leaves the one that answers in its place: that is a promise too.
    Cancelling cannot be undone, and what it ends is what had begun: lives of the kinds and test_sdk.py prove it.
    """
    models = st.lists(st.sampled_from(MODELS), min_size=3, max_size=3)
    return st.builds(with_models, specs(kind), models).map(with_pods)


def with_pods(spec: Manifest) -> Manifest:
    """A spec whose deployments, if it has some, have few pods and need nothing that the API server would refuse."""
    # Server-side apply makes null of a map whose last entry was taken away (kubernetes/kubernetes#135841).
    spec = {name: value for name, value in spec.items() if value != {}}
    # What needs the gateway, which is not here, leaves all as it was; so does scaling, which begins from what there is.
    spec.pop("tls", None)
    spec.pop("cancel", None)
    if spec.get("authMode") == "token":
        spec = {name: value for name, value in spec.items() if name not in ("authMode", "token")}
    if "deployments" not in spec:
        return spec
    kept = [{k: v for k, v in each.items() if k not in ("resources", "autoscale")} for each in spec["deployments"]]
    return {**spec, "deployments": [{**each, "replicas": 1 + each.get("replicas", 0) % 2} for each in kept]}


@pytest.mark.parametrize("kind", NAMES)
def test_edits_end_where_a_fresh_apply_of_the_last_one_does(ground, kind):
    """However an object was edited, deleted and made again, it ends as if its last spec were its first."""

    @examples(0.08 / len(NAMES), each=4)
    @given(steps(kind))
    def each(drawn: list[Manifest | None]) -> None:
        edited, fresh = ground.name(), ground.name()
        first: Manifest | None = None
        made: Manifest | None = None
        try:
            for spec in drawn:
                if spec is None:
                    if made is not None:
                        ground.delete(where(made))
                    first = None
                    continue
                first = spec if first is None else first
                spec = with_fixed(schema(kind, "spec"), first, spec)
                made = whole(kind, edited, spec)
                SENT["edited", kind] += 1
                answer = ground.apply(made)
                assert answer.is_success, answer.json()["message"]
            SENT["edited", kind] += 1
            ground.create(alike := whole(kind, fresh, spec))
            agreed = 0

            def same() -> bool:
                nonlocal agreed
                ground.play()
                both = observed(ground.get(where(made))) and observed(ground.get(where(alike)))
                agreed = agreed + 1 if both and ground.end(edited) == ground.end(fresh) else 0
                return agreed == 2

            try:
                ground.wait("both are alike", same)
            except AssertionError as error:
                lines = difference(ground.end(edited), ground.end(fresh))
                raise AssertionError("\n".join([str(error), *lines])) from None
        finally:
            ground.clear()

    each()


def test_poison_never_stops_the_others(ground):
    """Whatever stands in marks and statuses, no pass ends by a bug, and what is applied next converges."""
    admitted: Counter[bool] = Counter()
    last: list[list[Manifest]] = []  # the set that converged after one example is the one to poison in the next

    @examples(0.04, each=1.8)
    @given(poisons())
    def each(drops: list[Poison]) -> None:
        try:
            poisoned = last.pop() if last else converging(ground)
            name = poisoned[0]["metadata"]["name"]
            for pod, (kind, owner) in PODS.items():
                parent = ground.get((RESOURCES[kind], owner.replace("NAME", name)))
                ground.run_pod(pod_of(parent, pod.replace("NAME", name)))
            for drop in drops:
                SENT["poisoned", drop.kind] += 1
                admitted[ground.lay(drop.of(name))] += 1
            last.append(converging(ground))
            time.sleep(0.2)  # for passes over the poisoned that are under way
        finally:
            ground.clear(but=[made["metadata"]["name"] for made in last[-1]] if last else [])
        assert not (bug := ground.quarrel()), bug

    each()
    ground.clear()
    assert admitted[True] > admitted[False], "what the API server refuses poisons nobody"


def converging(ground: Ground) -> list[Manifest]:
    """Make one object of each kind, which refer to each other, and wait until they are as far as they come alone."""
    name = ground.name()
    made = [ground.create(neighbour.manifest(name, ground.artifact)) for neighbour in NEIGHBOURS.values()]
    children = [(RESOURCES[kind], child.replace("NAME", name)) for kind, child in CHILDREN]

    def converged() -> bool:
        seen = [ground.get(where(manifest)) for manifest in made]
        pairs = zip(seen, NEIGHBOURS.values(), strict=True)
        ready = all(is_true(there.get("status") or {}, "Ready") for there, neighbour in pairs if neighbour.ready)
        return ready and all(map(observed, seen)) and all(map(ground.get, children))

    ground.wait(f"the objects called {name} converge", converged)
    return made


def test_no_last_words_are_poison(ground):
    """Whatever a trainer's container says at its end, its TrainingJob ends too, or says what keeps it from that."""

    @examples(0.06, each=4)
    @given(st.lists(ends(), min_size=1, max_size=8))
    def each(drawn: list[tuple[int, str]]) -> None:
        try:
            output = {"model": {"registerAs": ground.name()}}
            jobs = [
                ground.create(named("TrainingJob", ground.name(), {"command": ["true"], "outputs": output}))
                for _ in drawn
            ]
            names = [job["metadata"]["name"] for job in jobs]
            children = ground.wait_for_all([(RESOURCES["Job"], name) for name in names], bool)
            for (code, words), child in zip(drawn, children, strict=True):
                SENT["last words", "Pod"] += 1
                pod = ground.run_pod(pod_of(child, f"{child['metadata']['name']}-0-abcde"))
                ground.patch(where(pod), {"status": ended_pod(code, words)}, "status")
                over = failed_job(1) if code else complete_job()
                answer = ground.patch(where(child), {"status": {"startTime": now(), **over}}, "status")
                assert answer.is_success, answer.json()["message"]
            ground.wait_for_all([where(job) for job in jobs], ended)
        finally:
            ground.clear()
        assert not (bug := ground.quarrel()), bug

    each()


def ended(job: Manifest) -> bool:
    """True if a TrainingJob has ended, or explains why it cannot."""
    status = job.get("status") or {}
    return is_true(status, "Succeeded") or is_true(status, "Failed") or find(status, "Reconciled") is not None


def test_the_run_was_as_large_as_asked(capsys):
    """The run has sent the required number of manifests, by property and kind, which documents quote."""
    with capsys.disabled():
        print("\nmanifests by property and kind, seed", SEED)
        for (what, kind), number in sorted(SENT.items()):
            print(f"{number:8} {what}, {kind}")
        print(f"{SENT.total():8} in all")

    assert SENT.total() >= MANIFESTS
