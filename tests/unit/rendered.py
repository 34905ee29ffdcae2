"""The chart as the real helm renders it, in each of its modes; fixtures are handed out by conftest.py."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from ultramarine_cluster import build, programs
from ultramarine_contract.meta import Manifest
from ultramarine_operator import settings

CRD = re.compile(r"^kind: CustomResourceDefinition$", re.MULTILINE)
CHART = Path(__file__).parents[2] / "charts" / "ultramarine"
METRICS = {"metrics": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")}}
EXTERNAL = {"storage": {"endpoint": "https://s3.example.com", "region": "eu", "bucket": "lake", "secretName": "s3"}}
PUBLIC = {"name": "public", "namespace": "infra", "sectionName": "https"}
GATEWAY_API: Manifest = {
    "gateway": {"enabled": False},
    "gatewayApi": {"parentRefs": [PUBLIC], "url": "https://{endpoint}.{namespace}.ml.example.com"},
}
MODES: dict[str, Manifest] = {
    "default": {},
    "namespaces": {"namespaces": ["team-a", "team-b"]},
    "clusterWide": {"clusterWide": True},
    "external": EXTERNAL,
    "two gateway pods": {"gateway": {"replicas": 2}},
    "no gateway": {"gateway": {"enabled": False}},
    "gateways of one's own": GATEWAY_API,
    "metrics": METRICS,
    "mlflow": {"mlflow": {"embedded": {"enabled": True}}, "namespaces": ["team-a", "team-b"]},
    "external clusterWide": {**EXTERNAL, "clusterWide": True, "crds": {"install": False}},
}


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm of the embedded cluster, built where it is not yet."""
    build.ensure(("helm",))
    return str(programs.path("helm"))


class Chart:
    """The chart, rendered for the release `um` in the namespace `platform`."""

    def __init__(self, helm: str) -> None:
        self._helm = helm

    def try_out(self, values: Manifest) -> subprocess.CompletedProcess[str]:
        """`helm template` with these values."""
        return _template(self._helm, json.dumps(values))

    def render(self, values: Manifest) -> list[Manifest]:
        """The objects that an installation with these values makes."""
        done = self.try_out(values)
        assert done.returncode == 0, done.stderr
        texts = re.split(r"^---$", done.stdout, flags=re.MULTILINE)
        documents = (_crd(text) if CRD.search(text) else _parsed(text) for text in texts)
        return [document for document in documents if document]

    def refusal(self, values: Manifest) -> str:
        """Return Helm's message for values that must be refused."""
        done = self.try_out(values)
        assert done.returncode != 0
        return done.stderr


def _parsed(text: str) -> Manifest | None:
    document: Manifest | None = yaml.load(text, Loader=yaml.CSafeLoader)
    return document


_crd = cache(_parsed)  # they are most of the text, and equal in all modes; no test changes one


@cache
def _template(helm: str, values: str) -> subprocess.CompletedProcess[str]:
    """The same values are rendered once: many tests look at the same modes."""
    command = [helm, "template", "um", str(CHART), "--namespace", "platform"]
    command += ["-f", str(CHART / "ci" / "images-values.yaml"), "-f", "-"]
    return subprocess.run(command, input=values, capture_output=True, text=True)


@pytest.fixture(scope="session")
def chart(helm) -> Chart:
    """The chart."""
    return Chart(helm)


@pytest.fixture(params=MODES)
def mode(request) -> Manifest:
    """The values of one mode after the other."""
    return MODES[request.param]


def of(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    """The objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def name(manifest: Manifest) -> str:
    """Namespace and name of an object."""
    return f"{manifest['metadata'].get('namespace', '')}/{manifest['metadata']['name']}"


def names(objects: list[Manifest], *kinds: str) -> list[str]:
    """Namespace and name of the objects of these kinds."""
    return sorted(name(manifest) for manifest in of(objects, *kinds))


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The spec of every pod, with the name of what it is in."""
    for item in objects:
        if item["kind"] == "Pod":
            yield item["metadata"]["name"], item["spec"]
        elif "template" in (item.get("spec") or {}):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def operator_settings(objects: list[Manifest]) -> settings.Settings:
    """Return the settings that the operator reads."""
    (operator,) = (item for item in of(objects, "Deployment") if item["metadata"]["name"] == "ultramarine-operator")
    return settings.parse(operator["spec"]["template"]["metadata"]["annotations"]["ultramarine.dev/settings"])


def operator_env(objects: list[Manifest]) -> dict[str, str]:
    """Return the variables of the operator."""
    (spec,) = (spec for name, spec in pods(objects) if name == "ultramarine-operator")
    return {variable["name"]: variable.get("value", "") for variable in spec["containers"][0].get("env", [])}
