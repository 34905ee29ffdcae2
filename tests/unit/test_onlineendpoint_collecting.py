"""Plans of a data collector for an endpoint's pods."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, endpoint, seen, version
from ultramarine_contract.serving_records import CollectTask, ServingTask
from ultramarine_operator.kinds.onlineendpoint.plan import plan

KEPT = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/", "redact": ["name", "age"]}


def made(**spec: Any) -> Any:
    """The Deployment of an endpoint."""
    return plan(endpoint(**spec), seen(related=(version(1),)), NOW).apply[0]


def pod(**spec: Any) -> Any:
    return made(**spec)["spec"]["template"]["spec"]


def task(container: Any) -> ServingTask:
    return ServingTask.from_json(container["env"][0]["value"])


def test_the_sidecar_alone_has_the_storage_keys():
    """The server gets what it needs to draw, and no keys; the sidecar has them, and ends after the server."""
    spec = pod(dataCollector=KEPT)
    _, sidecar = spec["initContainers"]
    [server] = spec["containers"]

    assert sidecar["envFrom"] == [{"secretRef": {"name": "ultramarine-storage"}}]
    assert sidecar["restartPolicy"] == "Always"
    assert "envFrom" not in server
    assert not any("AWS" in variable["name"] or "STORAGE" in variable["name"] for variable in server["env"])
    assert task(server).collect == CollectTask("churn", "blue", "s3://lake/team-a/kept/", 0.1, ("age", "name"))
    assert task(sidecar) == task(server)


@pytest.mark.attack("model/collector-keys")
def test_the_sidecar_shares_with_the_server_the_captures_alone():
    """A model's code writes to /tmp, where boto3 would look for its configuration."""
    spec = pod(dataCollector=KEPT)
    sidecar, server = spec["initContainers"][1], spec["containers"][0]
    volumes = [{mount["name"] for mount in one["volumeMounts"]} for one in (sidecar, server)]

    assert volumes[0] & volumes[1] == {"captures"}


def test_without_a_collector_the_task_and_the_pod_say_nothing_of_one():
    """Without a collector the pods are those of an operator without collectors, so no pod is restarted."""
    spec = pod()

    assert [one["name"] for one in spec["initContainers"]] == ["fetch"]
    assert "captures" not in {volume["name"] for volume in spec["volumes"]}
    assert "collect" not in spec["containers"][0]["env"][0]["value"]


def test_the_order_of_names_restarts_nothing():
    """The same names in another order are the same revision; another rate is another one."""
    key = "ultramarine.dev/revision"
    first = made(dataCollector=KEPT)["metadata"]["annotations"][key]
    turned = made(dataCollector={**KEPT, "redact": ["age", "name"]})["metadata"]["annotations"][key]
    more = made(dataCollector={**KEPT, "samplingRate": 1})["metadata"]["annotations"][key]

    assert first == turned != more
