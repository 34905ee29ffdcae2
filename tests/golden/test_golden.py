"""The children of typical objects, whole, as files that a person can read and a review can see change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from materials import MATERIALS
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_operator.shared.plan import Plan
from ultramarine_operator.shared.testing import PLATFORM

HERE = Path(__file__).parent
HEADER = "# Written by `pytest tests/golden --update-golden`; read the difference before you commit it.\n"


class Dumper(yaml.SafeDumper):
    """YAML without anchors, and with texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


def made(plan: Plan) -> list[Manifest]:
    """What a plan applies, and the Secrets that it has generated, without the values."""
    secrets = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": effect.metadata, "keys": list(effect.keys)}
        for effect in plan.effects
    ]
    return [*plan.apply, *secrets]


EXAMPLES = [sample for material in MATERIALS.values() for sample in material.samples]


@pytest.mark.attack(
    "author/host",
    asset="the node",
    threat="root, capabilities, host paths, host network, a writable image",
    control="no raw pod fields in the API; every pod satisfies Pod Security `restricted`, which the tests' "
    "namespaces enforce",
)
@pytest.mark.attack(
    "author/api-token",
    asset="the Kubernetes API",
    threat="a pod uses a service account's token",
    control="a pod that trains or serves gets one only if its `podTemplate` names a ServiceAccount; a pod that trains "
    "has another token, which only the operator takes. The network policies close the API server to all of them",
)
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_children_are_as_in_the_file(example, request):
    """The children of this object are, to the letter, those in the golden file."""
    path = HERE / f"{example.__name__}.yaml"
    text = yaml.dump_all(made(example(PLATFORM)), Dumper=Dumper, sort_keys=False, width=110)
    if request.config.getoption("--update-golden"):
        path.write_text(f"{HEADER}# {example.__doc__}\n{text}")

    assert path.exists(), f"there is no {path.name}; write it with --update-golden"
    before, now = (list(yaml.load_all(words, Loader=yaml.CSafeLoader)) for words in (path.read_text(), text))
    assert before == now
    assert path.read_text().endswith(text), f"{path.name} says the same in other words; write it with --update-golden"


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_child_says_what_the_server_leaves_out(example):
    """No child has an empty map that the API server does not keep: it would be missed, and written, in each pass."""
    kept = {"emptyDir", "resources"}

    def empty(value: Any, name: str = "") -> list[str]:
        if isinstance(value, dict) and value:
            items = [item for item in value.items() if item[0] != "outputs"]  # the server fills in their defaults
            return [line for key, each in items for line in empty(each, key)]
        if isinstance(value, list):
            return [line for each in value for line in empty(each, name)]
        return [name] if value == {} and name not in kept else []

    assert [line for child in example(PLATFORM).apply for line in empty(child)] == []


@pytest.mark.attack(
    "network/posing",
    asset="the platform's names",
    threat="a training pod that is taken over shows a certificate of the platform",
    control="pods that only ask mount the authority's certificate and no key; keys of storage, operator, "
    "gateway and authority are closed to jobs beside the platform",
)
@pytest.mark.parametrize("example", EXAMPLES)
def test_with_tls_each_container_has_what_it_needs_and_no_more(example):
    """What serves has the key of its kind; whatever else asks the storage or the operator has the authority alone."""
    by_tls = replace(PLATFORM, tls=True, storage_confined=True)
    keys = {"server": "ultramarine-tls-server", "coordinator": "ultramarine-tls-sweep"}
    for manifest in example(by_tls).apply:
        pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
        volumes = {volume["name"]: volume.get("secret") or {} for volume in pod.get("volumes", [])}
        for container in (*pod.get("initContainers", []), *pod.get("containers", [])):
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            mounted = mounts.get(contract.TLS_DIR, {})
            if (key := keys.get(container["name"])) is not None:
                assert (mounted["secretName"], mounted.get("items")) == (key, None)
                probes = [container[name] for name in container if name.endswith("Probe")]
                assert {probe["httpGet"]["scheme"] for probe in probes} <= {"HTTPS"}
            elif mounted:
                assert [item["key"] for item in mounted["items"]] == ["ca.crt"]
            env = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
            if contract.ENV_STORAGE_ENDPOINT in env:
                assert env[contract.ENV_STORAGE_CA] == f"{contract.TLS_DIR}/ca.crt"
                assert mounted
            sweep = json.loads(env.get(contract.ENV_SWEEP) or env.get(contract.ENV_TRIAL) or "{}")
            assert sweep.get("coordinator", "https:").startswith("https:")


def test_every_golden_file_has_its_example():
    """No file is left behind by an example that is gone."""
    examples = {example.__name__ for example in EXAMPLES}

    assert {path.stem for path in HERE.glob("*.yaml")} == examples
