"""Poison in what rollouts, scaling, pools, compiling and deleting remember, beside a gateway that may say anything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from deep_poison import DEPLOYMENTS, GATEWAY, PLACES, drops
from gateway_answers import Answers
from ground import Ground, where
from hands import pod_of, put
from hypothesis import given
from hypothesis import strategies as st
from operator_process import BUCKET, Operator
from poison import Poison
from test_misuse import examples, named, observed
from ultramarine_contract.meta import CONFIG_MAP, DEPLOYMENT, HORIZONTAL_POD_AUTOSCALER, JOB, Manifest
from ultramarine_contract.storage import Storage
from unit.conftest import ObjectStore

RUNNING = ("Progressing", "RolledBack", "Promoted")


@dataclass
class Routed(Ground):
    """A namespace with a gateway."""

    answers: Answers | None = None

    def lay(self, drop: Poison) -> bool:
        """Put one drop of poison where it belongs, or let the gateway say it."""
        if drop.kind != GATEWAY:
            return super().lay(drop)
        assert self.answers is not None
        self.answers.odd[drop.name] = drop.patch["answer"].encode()
        # So that it is asked now, and not when the next look is due.
        patch = {"metadata": {"annotations": {"touched": str(time.monotonic())}}}
        return super().lay(Poison("OnlineEndpoint", drop.name, patch))


@pytest.fixture(scope="module")
def routed(namespace, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    """A namespace in which operator and gateway run, with an artifact that a TrainingJob seems to have stored."""
    api = namespace()
    (object_store.folder / BUCKET).mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, Answers(api).listening() as answers:
        for name, value in object_store.credentials.items():
            patch.setenv(name, value)
        place = f"s3://{BUCKET}/{api.namespace}/trainingjobs/shop/job/model"
        record = put(Storage(object_store.endpoint), place, "weights")
        log = tmp_path_factory.mktemp("misuse") / "operator.log"
        operator = Operator(api, object_store, log, gateway=f"127.0.0.1:{answers.port}")
        operator.start()
        ground = Routed(api, operator, answers=answers, patience=60.0)  # a rollout takes a while to begin
        ground.artifact = {"uri": record.uri, "digest": record.digest, "format": {"name": "sklearn"}}
        yield ground
        operator.kill()


def scaled(metric: str, **wish: int) -> Manifest:
    """A deployment's number of pods by that metric."""
    return {"metric": metric, "target": 1, "minReplicas": 1, "maxReplicas": 3, "scaleDownAfterSeconds": 0, **wish}


def moving(ground: Routed) -> list[Manifest]:
    """Make one object of each widened kind, which refer to each other, and wait until their work is under way."""
    name = ground.name()
    reserved = {"requests": {"cpu": "100m"}}
    deployments = [
        {"name": "blue", "model": f"{name}@champion", "autoscale": scaled("requestRate", minReplicas=0)},
        {"name": "green", "model": f"{name}@1", "autoscale": scaled("concurrency")},
        {"name": "many", "pool": {"selector": {"matchLabels": {"tier": name}}}},
        {"name": "slow", "model": f"{name}@1", "resources": reserved, "autoscale": scaled("cpu")},
    ]
    gates = {"errorRateIncrease": 0.01, "p99Ratio": 1.5}
    rollout = {"candidate": "green", "steps": [50, 100], "stepSeconds": 1, "gates": gates}
    endpoint = {"traffic": {"blue": 90, "many": 10}, "deployments": deployments, "rollout": rollout}
    if ground.number % 2:
        token = {"issuer": "https://id.example.com", "audiences": [name], "jwks": '{"keys": [{"kty": "RSA"}]}'}
        endpoint |= {"authMode": "token", "token": token, "tls": {"secretName": f"{name}-tls"}}
    model = {"aliases": {"champion": "1"}, "retention": {"versions": 5}, "deletionPolicy": "Delete"}
    version = {"model": name, **ground.artifact}
    made = [
        ground.create(named("Model", name, model, labels={"tier": name})),
        ground.create(named("ModelVersion", f"{name}-1", {**version, "version": "1"})),
        ground.create(named("ModelVersion", f"{name}-2", {**version, "version": "2", "compile": {"to": "onnx"}})),
        ground.create(named("OnlineEndpoint", name, endpoint)),
    ]
    children = [(DEPLOYMENT, f"{name}-{each}") for each in DEPLOYMENTS]
    children += [(CONFIG_MAP, f"{name}-many-models"), (CONFIG_MAP, f"{name}-routes")]
    children += [(JOB, f"{name}-2-compile"), (HORIZONTAL_POD_AUTOSCALER, f"{name}-slow")]

    def under_way() -> bool:
        ground.play()
        seen = [ground.get(where(each)) for each in made]
        rolling = (seen[-1].get("status") or {}).get("rollout", {}).get("phase") in RUNNING
        remembered = len((seen[0].get("status") or {}).get("artifacts", [])) == 2
        return rolling and remembered and all(map(observed, seen)) and all(map(ground.get, children))

    ground.wait(f"the objects called {name} are under way", under_way)
    return made


def test_poison_in_what_is_under_way_never_stops_the_others(routed):
    """Whatever stands where a rollout, scaling, a pool, compiling or deleting reads it, no pass ends by a bug."""
    laid: Counter[bool] = Counter()
    last: list[list[Manifest]] = []

    @examples(0.015, each=2.5)
    @given(st.lists(drops(), min_size=1, max_size=8))
    def each(drawn: list[Poison]) -> None:
        try:
            poisoned = last.pop() if last else moving(routed)
            name = poisoned[0]["metadata"]["name"]
            routed.run_pod(pod_of(routed.get((JOB, f"{name}-2-compile")), f"{name}-2-compile-0-abcde"))
            for drop in drawn:
                mine = drop.of(name)
                text = {place: place.replace("NAMESPACE", routed.api.namespace) for place in PLACES}
                for artifact in mine.patch.get("status", {}).get("artifacts", []):
                    artifact["uri"] = text.get(artifact["uri"], artifact["uri"])
                laid[routed.lay(mine)] += 1
            routed.play()
            last.append(moving(routed))
        finally:
            routed.clear(but=[made["metadata"]["name"] for made in last[-1]] if last else [])
        assert not (bug := routed.quarrel()), bug

    each()
    routed.clear()
    assert laid[True] > laid[False], "what the API server refuses poisons nobody"
