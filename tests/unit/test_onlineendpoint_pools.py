"""Plans of an OnlineEndpoint with a pool."""

from __future__ import annotations

import random
from base64 import b64decode
from typing import Any

import pytest
from builders import NOW, child, condition, endpoint, kinds_of, ours, seen, version
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_contract.catalogue import CatalogueEntry, pack, unpack
from ultramarine_contract.common import CATALOGUE_NAME
from ultramarine_contract.meta import MODEL, MODEL_VERSION, ONLINE_ENDPOINT
from ultramarine_contract.serving_records import ServingTask
from ultramarine_operator.engine.mirror import Mirror
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.onlineendpoint.deployment import pools
from ultramarine_operator.kinds.onlineendpoint.endpoint import selector
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.shared.kind import ANY

LABELS = {"tier": "small"}


def pooled(**pool: Any) -> Any:
    """An endpoint with a pool of the Models that are labelled tier: small."""
    whole = {"selector": {"matchLabels": LABELS}, **pool}
    return endpoint(deployments=[{"name": "many", "pool": whole}])


def model(name: str, labels: dict[str, str] | None = None, **aliases: str) -> Any:
    """A Model with the labels of the pool, or others."""
    return ours("Model", name, {"aliases": aliases}, labels=LABELS if labels is None else labels)


def of(name: str, number: int, *, ready: bool = True, **spec: Any) -> Any:
    """A version of a Model."""
    made = version(number, ready=ready, **{"model": name, "format": {"name": "onnx"}, **spec})
    made["metadata"]["name"] = f"{name}-{number}"
    return made


def catalogue(got: Any) -> dict[str, CatalogueEntry]:
    """The catalogue that a plan writes."""
    [found] = [m for m in got.apply if m["kind"] == "ConfigMap"]
    assert found["metadata"]["name"] == "churn-many-models"
    return unpack(b64decode(found["binaryData"][CATALOGUE_NAME]))


def deployment(got: Any) -> Any:
    """The Deployment that a plan writes."""
    [found] = [m for m in got.apply if m["kind"] == "Deployment"]
    return found


def message(got: Any) -> str:
    """Return the message of the one deployment in the status."""
    [entry] = got.status["deployments"]
    assert entry["modelVersion"] == ""
    return str(entry["message"])


def test_the_catalogue_names_the_newest_ready_version_of_each_labelled_model():
    """Models without the label are left out, and so are versions that are not ready."""
    related = (
        model("a"),
        of("a", 1),
        of("a", 2, uri="s3://lake/a/2/"),
        of("a", 3, ready=False),
        model("b"),
        of("b", 1),
        model("c", {"tier": "large"}),
        of("c", 1),
    )
    got = plan(pooled(), seen(related=related), NOW)

    assert {name: entry.version for name, entry in catalogue(got).items()} == {"a": "2", "b": "1"}
    assert catalogue(got)["a"].uri == "s3://lake/a/2/"
    assert kinds_of(got.apply)[:2] == ["ConfigMap/churn-many-models", "Deployment/churn-many"]


def test_the_alias_chooses_the_version():
    """With an alias each Model's own is followed; one that lacks it is named."""
    related = (model("a", champion="1"), of("a", 1), of("a", 2), model("b"), of("b", 1))
    got = plan(pooled(alias="champion"), seen(related=related), NOW)

    assert {name: entry.version for name, entry in catalogue(got).items()} == {"a": "1"}
    assert "2 models, 1 without a ready version: b" in got.status["deployments"][0]["message"]


def test_a_compiled_version_is_served_compiled():
    """An entry of the catalogue equals the one that a deployment of that version alone would serve."""
    one = of("a", 1, format={"name": "sklearn"}, compile={"to": "onnx"})
    one["status"]["conditions"].append({"type": "Compiled", "status": "True"})
    one["status"]["compiled"] = {"uri": "s3://lake/compiled/", "digest": "sha256:" + "b" * 64}
    entry = catalogue(plan(pooled(), seen(related=(model("a"), one)), NOW))["a"]

    assert (entry.uri, entry.format) == ("s3://lake/compiled/", "onnx")


def test_other_models_do_not_restart_the_pods():
    """A new model changes the catalogue and nothing in the Deployment."""
    few = plan(pooled(), seen(related=(model("a"), of("a", 1))), NOW)
    more = plan(pooled(), seen(related=(model("a"), of("a", 2), model("b"), of("b", 1))), NOW)

    assert catalogue(few) != catalogue(more)
    assert deployment(few) == deployment(more)


@pytest.mark.attack("model/pool-keys")
def test_the_server_never_sees_the_storage_keys():
    """They are in the environment of the container beside it, which goes on for as long as the pod does."""
    pod = deployment(plan(pooled(), seen(related=(model("a"), of("a", 1))), NOW))["spec"]["template"]["spec"]
    [fetcher], [server] = pod["initContainers"], pod["containers"]

    assert fetcher["restartPolicy"] == "Always"
    assert fetcher["command"] == ["ultramarine-server", "fetch-pool"]
    assert [entry["secretRef"]["name"] for entry in fetcher["envFrom"]] == ["ultramarine-storage"]
    assert "envFrom" not in server
    mounted = {mount["name"]: mount.get("readOnly", False) for mount in server["volumeMounts"]}
    assert mounted["model"] is True
    assert mounted["catalogue"] is True
    writable = {name for name, locked in mounted.items() if not locked}
    assert not writable & {mount["name"] for mount in fetcher["volumeMounts"]}


def test_the_task_says_the_bound_and_names_no_model():
    """The memory bound comes to the pods in bytes; a new bound makes new pods."""
    related = (model("a"), of("a", 1))
    one, other = (deployment(plan(pooled(maxLoadedMebibytes=size), seen(related=related), NOW)) for size in (16, 17))
    [server] = one["spec"]["template"]["spec"]["containers"]
    task = ServingTask.from_json(server["env"][0]["value"])

    assert (task.pool_bytes, task.model, task.auth) == (16 * 2**20, "", "key")
    assert one["metadata"]["annotations"] != other["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("related", "words"),
    [
        ((), "no Model has the labels tier=small; label some"),
        ((model("a"), of("a", 1, ready=False)), "none of 1 model can be served: no version of Model a is ready"),
    ],
)
def test_a_pool_without_models_waits_and_says_so(related, words):
    """No pods are made for nothing."""
    got = plan(pooled(), seen(related=related), NOW)

    assert kinds_of(got.apply) == ["Service/churn"]
    assert words in message(got)
    assert got.status["deployments"][0]["state"] == "Waiting"


def test_a_ready_pool_says_how_many_models_it_has():
    """All pods are ready: the status counts models and names those that lack a version, and no version is told."""
    one, related = pooled(), (model("a"), of("a", 1), model("b"), model("c"), of("c", 2, ready=False))
    wanted = deployment(plan(one, seen(related=related), NOW))
    counts = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    live = child("Deployment", "churn-many", one, wanted["spec"], counts)
    live["metadata"]["annotations"] = wanted["metadata"]["annotations"]
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    pod = child("Pod", "churn-many-x", one, {}, ready)
    pod["metadata"]["labels"] = selector(one, "many")
    address = child("Service", "churn", one, {"selector": selector(one, "many")})
    got = plan(one, seen(live, pod, address, related=related), NOW)

    assert message(got) == "3 models, 2 without a ready version: b, c"
    assert condition(got, "Ready")["status"] == "True"
    assert condition(got, "Ready")["message"] == "3 models, 2 without a ready version: b, c"
    assert "modelVersion" not in got.status


def test_a_model_that_has_no_version_now_stays_as_it_was():
    """A model that is served stays if its alias leads to no version. A model without the label goes."""
    one = pooled(alias="champion")
    before = plan(one, seen(related=(model("a", champion="1"), of("a", 1), model("b", champion="1"), of("b", 1))), NOW)
    [there] = [m for m in before.apply if m["kind"] == "ConfigMap"]
    known = child("ConfigMap", "churn-many-models", one)
    known["binaryData"] = there["binaryData"]
    after = plan(one, seen(known, related=(model("a", champion="7"), of("a", 1), model("b", {}), of("b", 1))), NOW)

    assert "1 model, 1 without a ready version: a" in message(after)
    assert {name: entry.version for name, entry in catalogue(after).items()} == {"a": "1"}


def test_a_thousand_models_fit_and_too_many_are_refused(monkeypatch):
    """1,000 models take a tenth of what a ConfigMap holds; where that is not enough, the message says what to do."""
    digests = random.Random(1)
    related = [model(f"model-{number:04}") for number in range(1000)]
    related += [
        of(f"model-{number:04}", 1, uri=f"s3://lake/{number}/", digest=f"sha256:{digests.getrandbits(256):064x}")
        for number in range(1000)
    ]
    got = plan(pooled(), seen(related=tuple(related)), NOW)
    [found] = [m for m in got.apply if m["kind"] == "ConfigMap"]
    size = len(found["binaryData"][CATALOGUE_NAME])
    assert len(catalogue(got)) == 1000
    assert size < pools.LIMIT / 8

    monkeypatch.setattr(pools, "LIMIT", size - 1)
    refused = plan(pooled(), seen(related=tuple(related)), NOW)
    assert kinds_of(refused.apply) == ["Service/churn"]
    assert "make several pools" in message(refused)


@given(
    st.lists(
        st.builds(CatalogueEntry, *[st.text(max_size=20)] * 5, st.booleans(), st.none() | st.just({"inputs": []})),
        unique_by=lambda entry: entry.model,
        max_size=5,
    )
)
def test_a_catalogue_is_read_as_it_was_written(entries):
    """Any order of the entries gives the same bytes, and these the same entries."""
    assert unpack(pack(entries)) == {entry.model: entry for entry in entries}
    assert pack(entries) == pack(reversed(entries))


@pytest.mark.parametrize("data", [b"", b"{}", pack([])[:-4], pack([]) + b"x"])
def test_what_is_no_catalogue_is_refused(data):
    """Half of one, and anything else, is a ValueError."""
    with pytest.raises(ValueError, match="not a catalogue"):
        unpack(data)


def test_a_pool_is_rung_by_every_model_of_its_namespace_and_sees_all_of_them():
    """Labels can come to any Model; its own changes ring no Model, but every Model sees it."""
    mirror = Mirror(KINDS)
    mirror.put(ONLINE_ENDPOINT, pooled().manifest)
    mirror.put(ONLINE_ENDPOINT, ours("OnlineEndpoint", "one", {"deployments": [{"name": "a", "model": "c@1"}]}))
    for found in (model("a"), model("b"), ours("Model", "c", {}, namespace="team-b")):
        mirror.put(MODEL, found)
    mirror.put(MODEL_VERSION, of("a", 1))

    assert mirror.lookers(ONLINE_ENDPOINT, "team-a", {"a"}) == {"churn"}
    assert mirror.about(MODEL, "team-a", {ANY}) == {"a", "b"}
    assert mirror.about(MODEL_VERSION, "team-a", {ANY}) == {"a-1"}
    assert mirror.lookers(MODEL, "team-a", {ANY}) == set()
    assert mirror.about(ONLINE_ENDPOINT, "team-a", {"a"}) == {"churn"}
    assert mirror.about(ONLINE_ENDPOINT, "team-b", {"c"}) == set()
