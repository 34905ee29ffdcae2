"""PriorityClasses that pods may name, by the chart's values, on a real API server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml
from bare import Api, eventually, policies, whole
from ultramarine_contract.meta import Manifest

POLICY = "priority-classes.ultramarine.dev"


def refusal(api: Api, kind: str, name: str | None) -> str:
    """Return the API server's message for an object whose pods name a class; empty if it is admitted."""
    spec = {"podTemplate": {"priorityClassName": name}}
    deployments = [{"name": deployment, "model": "m@1", **spec} for deployment in ("blue", "green", "purple")]
    patches: Manifest = {"Sweep": {"trialTemplate": {"spec": spec}}, "OnlineEndpoint": {"deployments": deployments}}
    return api.verdict(whole(kind, {"spec": patches.get(kind, spec)}))


@pytest.fixture(scope="module")
def restricted(namespace: Callable[[], Api]) -> Callable[[str], Api]:
    """Makes a namespace in which the policy of a list of classes is in force, and another name for the platform's."""

    def make(listed: str) -> Api:
        api = namespace()
        settings = ('priorityClass.name="infra"', f"training.priorityClasses={listed}")
        for manifest in yaml.safe_load_all(policies("default", *settings)):
            if manifest and manifest["metadata"]["name"] == POLICY:
                api.cluster.run("apply", "-f", "-", input=yaml.safe_dump(confined(manifest, api.namespace)))
        eventually("it is in force", lambda: POLICY in refusal(api, "TrainingJob", "infra"))
        return api

    return make


def confined(manifest: Manifest, namespace: str) -> Manifest:
    """The policy or its binding under a name of the namespace's and for that alone: other tests use other classes."""
    name = f"{namespace}.{POLICY}"
    manifest["metadata"]["name"] = name
    if manifest["kind"].endswith("Binding"):
        manifest["spec"]["policyName"] = name
        labels = {"kubernetes.io/metadata.name": namespace}
        manifest["spec"]["matchResources"] = {"namespaceSelector": {"matchLabels": labels}}
    return manifest


@pytest.mark.attack(
    "author/priority",
    asset="the cluster's own pods, and the platform's",
    threat="training and serving take their place by their PriorityClass",
    control="classes that begin with `system-` or `ultramarine-platform` are refused at admission; "
    "`training.priorityClasses` lists those that may be named, for serving too. Operator, storage, MLflow and "
    "gateways have a class of value 1000000",
)
def test_pods_name_the_classes_that_are_allowed_and_no_other(restricted):
    """Field, value and what may be written are in the answer; a list without any allows none."""
    some, none = restricted('["batch", "infra"]'), restricted("[]")
    place = {"TrainingJob": "spec", "Sweep": "spec.trialTemplate.spec", "OnlineEndpoint": "spec.deployments[]"}
    for kind, where in place.items():
        field = f"{where}.podTemplate.priorityClassName"
        assert refusal(some, kind, "batch") == refusal(some, kind, None) == refusal(none, kind, None) == ""
        words = f"{field}: high is not allowed here; the classes are: batch, infra; name one of them, or leave it out"
        assert words in refusal(some, kind, "high")
        assert f"{field}: high is not allowed here; no class is, so leave it out" in refusal(none, kind, "high")
        assert f"{field}: infra is for the pods of the platform itself" in refusal(some, kind, "infra")
