"""The command and the SDK in a namespace whose release has no gateway: requests go to a server pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Platform, restricted
from manifests import endpoint, model_version, onnx_model
from person import Person, data_scientist
from ultramarine import Client
from ultramarine_cluster import cluster, target

pytestmark = [pytest.mark.slow, pytest.mark.exclusive]

HOME = "ultramarine-plain"


@pytest.fixture(scope="module")
def plain(embedded: target.Target) -> Iterator[Platform]:
    """A release without a gateway, in a namespace that serves two versions behind keys."""
    embedded.run("delete", "namespace", HOME, "--ignore-not-found", "--timeout=300s")
    restricted(embedded, HOME)
    home = Platform(embedded, HOME)
    try:
        images = target.give_images(embedded, target.OWN_IMAGES)
        target.upgrade(embedded, HOME, images, "crds.install=false", f'namespaces=["{HOME}"]', "gateway.enabled=false")
        made = []
        for version in (1, 2):
            content, key = onnx_model(version), f"{HOME}/tests/adds-{version}.onnx"
            with embedded.bucket(HOME) as storage:
                storage.put_object(Bucket="ultramarine", Key=key, Body=content)
            made.append(model_version("adds", version, f"s3://ultramarine/{key}", content))
        served = endpoint("adds", "adds@1")
        served["spec"]["deployments"].append({**served["spec"]["deployments"][0], "name": "green", "model": "adds@2"})
        served["spec"]["traffic"] = {"blue": 100}
        home.apply(*made, served)
        home.settled("adds")
        yield home
    finally:
        embedded.run("delete", "namespace", HOME, "--ignore-not-found", "--wait=false")


def test_each_deployment_answers(plain: Platform) -> None:
    """The key is asked for, and a deployment without traffic answers those that name it."""
    with Client(kubeconfig=str(cluster.up().kubeconfig), namespace=HOME) as client:
        adds = client.endpoint("adds")
        assert adds.predict([[2.0]]) == [[3.0]]
        assert adds.predict([[2.0]], deployment="green") == [[4.0]]
        with pytest.raises(Exception, match="does not accept the key"):
            client.endpoint("adds", key="wrong").predict([[2.0]])


def test_the_command_asks_and_shows(plain: Platform, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`invoke`, `test` and `logs` need no gateway."""
    folder = tmp_path_factory.mktemp("plain")
    person = Person(folder, cluster.up().kubeconfig)
    (folder / "rows.csv").write_text("x\n2\n")
    words = ("-n", HOME, "endpoints")

    assert json.loads(person.run(*words, "invoke", "adds", "--data", "@rows.csv").stdout) == {"y": [[3.0]]}
    assert "y" in json.loads(person.run(*words, "test", "adds").stdout)
    assert person.run(*words, "logs", "adds").stdout


def test_files_go_through_a_pod_of_the_storage(plain: Platform, tmp_path: Path) -> None:
    """A data scientist may reach pods of her namespace, and so the storage that the release has there."""
    ada = Person(tmp_path, data_scientist(plain, "plain-ada", tmp_path))
    (tmp_path / "rows.csv").write_text("x\n2\n")

    assert ada.run("-n", HOME, "data", "put", "rows.csv", "in/").stdout == f"s3://ultramarine/{HOME}/in/rows.csv\n"
    ada.run("-n", HOME, "data", "get", "in/rows.csv", "back.csv")
    assert (tmp_path / "back.csv").read_text() == "x\n2\n"
