"""The way from a laptop to the storage: a data scientist's port-forward to the gateway's pod of her namespace."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from conftest import NAMESPACE, Platform, apply_as_helm
from ultramarine_contract.meta import PLATFORM_MAP
from ultramarine_operator.generate import people

SCIENTIST = "ways-ada"


@pytest.fixture(scope="module")
def scientist(platform: Platform) -> Iterator[Platform]:
    """The platform as a data scientist of its namespace has it, who has no rights anywhere else."""
    admin = platform.target
    apply_as_helm(admin, yaml.safe_dump_all(people.manifests()))
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ultramarine-data-scientist"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": SCIENTIST},
        "roleRef": role,
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": SCIENTIST}],
    }
    platform.kubectl("apply", "-f", "-", input=json.dumps(binding))
    yield Platform(replace(admin, kubectl=(*admin.kubectl, "--as", SCIENTIST)), NAMESPACE)
    platform.delete("rolebinding", SCIENTIST)


@pytest.fixture(scope="module")
def facts(scientist: Platform) -> dict[str, str]:
    """The content of the namespace's ConfigMap, as she reads it."""
    return dict(json.loads(scientist.kubectl("get", "configmap", PLATFORM_MAP, "-o", "json"))["data"])


@pytest.fixture(scope="module")
def storage(scientist: Platform, facts: dict[str, str]) -> Iterator[Any]:
    """An S3 client behind her port-forward, with the keys that she may read."""
    data = json.loads(scientist.kubectl("get", "secret", facts["storageSecret"], "-o", "json"))["data"]
    keys = {name.lower(): base64.b64decode(value).decode() for name, value in data.items()}
    with scientist.by_gateway(int(facts["storagePort"])) as port:
        url = f"http://127.0.0.1:{port}"
        yield boto3.client("s3", endpoint_url=url, region_name=facts["storageRegion"] or "us-east-1", **keys)


def test_a_data_scientist_stores_and_fetches_from_her_own_machine(storage: Any, facts: dict[str, str]) -> None:
    """Through the gateway's pod an object goes into the namespace's folder of the bucket, and comes back whole."""
    key, content = f"{NAMESPACE}/tests/from-a-laptop.bin", bytes(range(256)) * 4096
    storage.put_object(Bucket=facts["bucket"], Key=key, Body=content)
    assert storage.get_object(Bucket=facts["bucket"], Key=key)["Body"].read() == content
    storage.delete_object(Bucket=facts["bucket"], Key=key)


@pytest.mark.attack("training/namespace-keys")
@pytest.mark.parametrize("key", ["another-team/data.csv", "shared/data.csv"])
def test_the_way_opens_no_folder_of_others(storage: Any, facts: dict[str, str], key: str) -> None:
    """Folders that the namespace's keys do not open stay closed behind the port-forward."""
    with pytest.raises(ClientError) as caught:
        storage.put_object(Bucket=facts["bucket"], Key=key, Body=b"x")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.attack("author/roles")
@pytest.mark.parametrize("words", ["create pods/portforward", "get configmaps/ultramarine-platform", "list pods"])
def test_she_needs_no_rights_elsewhere(scientist: Platform, words: str) -> None:
    """Her rights end at her namespace."""
    argv = [*scientist.target.kubectl, "-n", "kube-system", "auth", "can-i", *words.split()]
    assert subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == "no"
