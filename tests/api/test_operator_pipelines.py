"""Steps that publish, before a real API server, with the real operator, which has exactly the chart's rights."""

from __future__ import annotations

from typing import Any

import pytest
from bare import Api, eventually
from stories import ready, status, trained
from ultramarine_contract.meta import Manifest
from ultramarine_operator.shared.testing import applied

ALIAS = {"model": "churn", "version": "1", "alias": "champion"}


def run(name: str, **publish: Any) -> Manifest:
    """A run of one step, which publishes."""
    fields = {field: value for field, value in {**ALIAS, **publish}.items() if value is not None}
    steps = [{"name": "publish", "publish": fields}]
    return applied("PipelineRun", name, {"pipelineSpec": {"steps": steps}})


def step(api: Api, name: str) -> Manifest:
    """The status of the step."""
    return next(iter(status(api, "plr", name).get("steps") or []), {})


def ended(api: Api, name: str) -> str:
    """Wait for the end of a run, and return its state."""
    return eventually(
        f"{name} has ended", lambda: (word := status(api, "plr", name).get("state")) in ("Succeeded", "Failed") and word
    )


@pytest.fixture
def churn(api, replica, node):
    """The Model churn with one ready version, and an alias that the user has set."""
    replica("operator").start()
    trained(api, node, "churn")
    eventually("the version is ready", lambda: ready(api, "churn-1"))
    api.run("patch", "mdl", "churn", "--type=merge", "-p", '{"spec": {"aliases": {"old": "1"}}}')


def test_a_step_moves_an_alias_and_a_deployment_forward_only(api, churn):
    """Both get the version while other fields stay; one that has a newer version keeps it, and the step says so."""
    deployments = [{"name": "blue", "model": "churn@2"}, {"name": "green", "model": "churn@1", "replicas": 3}]
    api.apply(applied("OnlineEndpoint", "churn", {"traffic": {"blue": 100}, "deployments": deployments}))
    second = {**api.get("mv", "churn-1")["spec"], "version": "2"}
    api.apply(run("alias"), applied("ModelVersion", "churn-2", second))
    assert ended(api, "alias") == "Succeeded"
    assert api.get("mdl", "churn")["spec"]["aliases"] == {"old": "1", "champion": "1"}
    assert step(api, "alias")["published"]["version"] == "1"

    place = {"alias": None, "endpoint": "churn"}
    api.apply(run("older", **place, deployment="blue"), run("newer", **place, deployment="green", version="2"))
    assert ended(api, "older") == ended(api, "newer") == "Succeeded"
    assert "leads to version 2, which is newer than 1" in step(api, "older")["message"]
    assert step(api, "newer")["published"]["former"] == "1"
    assert api.get("oe", "churn")["spec"]["deployments"][1] == {**deployments[1], "model": "churn@2"}
