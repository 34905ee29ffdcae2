"""An endpoint whose versions take different requests says so, and goes on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from builders import DIGEST, NOW, condition, endpoint, model, seen, version
from ultramarine.resources.onlineendpoint import OnlineEndpointStatus
from ultramarine_operator.kinds.onlineendpoint.plan import plan, questions
from ultramarine_operator.shared.conditions import find
from unit.test_onlineendpoint_plan import TWO, deployment, server_pod
from unit.test_onlineendpoint_routed import KEYS
from unit.test_rollout_plan import MATRIX, World

AGE, TEXT = {**MATRIX, "name": "age"}, {**MATRIX, "datatype": "BYTES"}
REMEDY = "Change the clients, or serve versions that take the same requests"
FORMER = f"churn-2 refuses requests that churn-1 takes: it needs an input age. {REMEDY}"


def declared(number, *inputs):
    """A version that says what it takes."""
    return version(number, signature={"inputs": list(inputs)})


def look(one, *related, pods=()):
    """A pass, and the endpoint as it is after that."""
    got = plan(one, seen(*pods, related=related), NOW)
    return got, replace(one, manifest={**one.manifest, "status": {**got.status, **KEYS}})


def told(got):
    """The events that warn of changed inputs."""
    return [(event.type, event.message) for event in got.events if event.reason == "SignatureChanged"]


def test_a_moved_alias_to_other_inputs_is_told_once_and_stays_told():
    """At once, while the former version answers, and as long as the new one serves; nothing is held back."""
    one = endpoint(KEYS, deployments=[{"name": "blue", "model": "churn@champion"}])
    both, first = (declared(1, MATRIX), declared(2, MATRIX, AGE)), model(aliases={"champion": "1"})
    pods = (deployment(one, 1), server_pod(one, 1))
    got, one = look(one, first, *both, pods=pods)
    assert (condition(got, "SignatureChanged"), told(got)) == ({}, [])

    moved = model(aliases={"champion": "2"})
    got, one = look(one, moved, *both, pods=pods)
    assert condition(got, "SignatureChanged")["message"] == FORMER
    assert (condition(got, "SignatureChanged")["status"], condition(got, "Ready")["status"]) == ("True", "True")
    assert told(got) == [("Warning", FORMER)]
    assert got.status["deployments"][0]["modelVersion"] == "churn-2"
    OnlineEndpointStatus.model_validate(got.status)

    later = (deployment(one, 2), server_pod(one, 2))
    got, one = look(one, moved, *both, pods=later)
    assert (condition(got, "SignatureChanged")["message"], told(got)) == (FORMER, [])
    got, again = look(one, moved, both[1], pods=later)  # the former version is deleted
    assert {**got.status, **KEYS} == one.status, "a pass that changes nothing writes nothing"

    got, _ = look(again, model(aliases={"champion": "3"}), *both, declared(3, AGE, MATRIX), pods=later)
    assert condition(got, "SignatureChanged") == {}, "clients have followed"
    got, _ = look(again, first, *both, pods=later)
    assert condition(got, "SignatureChanged") == {}, "the version that clients know is back"


def test_a_version_that_never_served_has_no_clients():
    """Of three versions in a minute the last one is compared with the one whose pods answer."""
    one = endpoint(KEYS)
    pods = (deployment(one, 1), server_pod(one, 1))
    versions = (declared(1, MATRIX), declared(2, MATRIX, AGE), declared(3, MATRIX))
    for count in (1, 2, 3):
        got, one = look(one, *versions[:count], pods=pods)
        assert bool(told(got)) == (count == 2)
    assert condition(got, "SignatureChanged") == {}


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((MATRIX, AGE), "churn-2 refuses requests that churn-1 takes: it needs an input age"),
        ((AGE,), "churn-2 refuses requests that churn-1 takes: it has no input input, it needs an input age"),
        ((TEXT,), "churn-2 refuses requests that churn-1 takes: its input input is BYTES and not FP64"),
        (({**MATRIX, "datatype": ""},), ""),
    ],
)
def test_a_split_between_other_inputs_is_told(inputs, why):
    """From the first pass on: each half of the requests is refused by the other half's version."""
    inputs = tuple({**one, "datatype": one["datatype"] or "FP64"} for one in inputs)
    one = endpoint(KEYS, deployments=TWO, traffic={"blue": 50, "green": 50})
    got, _ = look(one, declared(1, MATRIX), declared(2, *inputs))
    assert condition(got, "SignatureChanged").get("message") == (f"{why}. {REMEDY}" if why else None)


def test_a_split_is_compared_with_the_traffic_before_it():
    """One line a pair, also when the traffic has turned; and none when it is turned back."""
    both = (declared(1, MATRIX), declared(2, MATRIX, AGE))
    one = endpoint(KEYS, deployments=TWO, traffic={"blue": 100})
    pods = (deployment(one, 1), server_pod(one, 1), deployment(one, 2, "green"), server_pod(one, 2, "green"))
    got, one = look(one, *both, pods=pods)
    assert condition(got, "SignatureChanged") == {}, "green has no traffic"
    for traffic, message in (
        ({"blue": 90, "green": 10}, FORMER),
        ({"green": 100}, FORMER),
        ({"blue": 100}, None),
        ({"blue": 90, "green": 10}, FORMER),
        ({"blue": 100}, None),
    ):
        got, one = look(endpoint(one.status, deployments=TWO, traffic=traffic), *both, pods=pods)
        assert condition(got, "SignatureChanged").get("message") == message, traffic


@pytest.mark.parametrize(
    "garbage", [{"versions": 3}, {"known": [{}]}, [], "x", {"before": ["churn-9"], "versions": [""]}]
)
def test_what_others_write_into_the_status_does_no_harm(garbage):
    """It is dropped, or compared with nothing."""
    got, _ = look(endpoint({**KEYS, "signatures": garbage}), declared(1, MATRIX))
    assert got.status["signatures"]["versions"] == ["churn-1"]
    assert condition(got, "SignatureChanged") == {}


def of(number, *inputs):
    """Return a pod's report about its model."""
    return {"name": "churn", "version": str(number), "inputs": list(inputs)}


def test_inputs_that_pods_tell_are_remembered():
    """When the new version's pods tell theirs, no pod of the former one is left; then no pod is asked any more."""
    world = World(rollout=None, traffic=None, deployments=[{"name": "blue", "model": "churn@challenger"}])
    world.aliases = {"challenger": "1"}
    for envoy in world.gateways.values():
        envoy.signatures = {"blue": of(1, MATRIX)}
    world.go(30)
    [question] = questions(world.owner(), replace(seen(), platform=world.platform))
    assert not question.signatures
    world.aliases = {"challenger": "2"}
    for envoy in world.gateways.values():
        envoy.signatures = {"blue": of(2, MATRIX, AGE)}
    world.go(30)
    assert find(world.status, "SignatureChanged")["message"] == FORMER
    assert (world.events.count("SignatureChanged"), world.shares) == (1, {"blue": 100})
    writes = world.writes
    assert world.go(60).writes == writes
    OnlineEndpointStatus.model_validate(world.status)


def test_inputs_of_containers_count_as_those_of_their_model():
    """A container has names of its own; with api v2 its inputs are compared under its ModelVersion, otherwise never."""
    for api, message in (("v2", FORMER), (None, None)):
        server = {"image": "mlserver:1", "ports": {"http": 8080}, **({"api": api} if api else {})}
        deployments = [{"name": "blue", "model": "churn@challenger", "container": server}]
        world = World(rollout=None, traffic=None, deployments=deployments)
        for number, inputs in (("1", [MATRIX]), ("2", [MATRIX, AGE])):
            world.aliases = {"challenger": number}
            for envoy in world.gateways.values():
                envoy.signatures = {"blue": {"name": "iris", "version": "", "inputs": inputs}} if api else {}
            world.go(30, requests=0)
        assert world.status["deployments"][0]["modelVersion"] == "churn-2"
        assert (find(world.status, "SignatureChanged") or {}).get("message") == message


class Remade(World):
    """An endpoint of version 1, of which only its pods know the inputs; its ModelVersion may be made again."""

    def __init__(self):
        super().__init__(rollout=None, traffic=None, deployments=[{"name": "blue", "model": "churn@1"}])
        self.digest = DIGEST

    def version(self, number):
        return version(number, digest=self.digest)

    def tell(self, *inputs):
        for envoy in self.gateways.values():
            envoy.signatures = {"blue": of(1, *inputs)}
        return self.go(30)

    def asks(self):
        versions = (self.version(1),)
        [question] = questions(self.owner(), replace(seen(related=versions), platform=self.platform))
        return question.signatures

    def remembered(self):
        OnlineEndpointStatus.model_validate(self.status)
        return self.status["signatures"]["known"]


def test_inputs_of_a_version_that_was_made_again_are_asked_for_again():
    """Under its number it is another model; what pods of the former one tell meanwhile is not believed."""
    world = Remade().tell(MATRIX)
    assert [one["digest"] for one in world.remembered()] == [DIGEST]
    assert not world.asks()
    world.digest = "sha256:" + "b" * 64
    assert world.asks()
    world.look()  # the pod of the former model answers yet
    assert [one["digest"] for one in world.remembered()] == [DIGEST]
    [entry] = world.tell(AGE).remembered()
    assert (entry["digest"], [one["name"] for one in entry["inputs"]]) == (world.digest, ["age"])
    assert not world.asks()


def test_inputs_that_an_earlier_release_remembered_stay():
    """They have no digest yet, and get the one that their version has."""
    world = Remade().tell(MATRIX)
    before = deepcopy(world.status)
    del world.remembered()[0]["digest"]
    assert not world.asks()
    for envoy in world.gateways.values():
        envoy.signatures = None
    world.look()
    assert world.status == before


def test_inputs_that_are_too_many_are_not_remembered():
    """A status has no room for them: that is what it remembers, and pods are not asked again."""
    many = [{**MATRIX, "name": f"{n:0250}"} for n in range(100)]
    got, _ = look(endpoint(KEYS), declared(1, *many))
    empty = {"version": "churn-1", "digest": DIGEST, "inputs": []}
    assert got.status["signatures"]["known"] == [empty]
    world = Remade().tell(*many)
    assert world.remembered() == [empty]
    assert not world.asks()
    writes = world.writes
    assert world.go(30).writes == writes


def test_a_datatype_that_people_write_into_a_status_ends_no_pass():
    """It stands for any."""
    world = Remade().tell(MATRIX)
    world.remembered()[0]["inputs"][0]["datatype"] = "BF16"
    world.spec["deployments"] = [{"name": "blue", "model": "churn@2"}]
    for envoy in world.gateways.values():
        envoy.signatures = {"blue": of(2, {**MATRIX, "datatype": "INT64"})}
    assert find(world.go(30).status, "SignatureChanged") is None
