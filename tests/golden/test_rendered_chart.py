"""What the chart installs, whole, in some of its modes; without the files that it carries as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from golden.test_golden import HEADER, Dumper
from ultramarine_contract.meta import Manifest
from ultramarine_operator.generate import people
from unit.rendered import EXTERNAL, GATEWAY_API, Chart, helm  # noqa: F401  the fixture of the unit tests serves here too

HERE = Path(__file__).parent / "chart"
EXAMPLES: dict[str, Manifest] = {
    "default": {},
    "clusterwide_external": {**EXTERNAL, "clusterWide": True, "gateway": {"enabled": False}},
    "gateway_api": {**GATEWAY_API, "namespaces": ["team-a"], "crds": {"install": False}},
    "everything": {
        "images": {"pullSecrets": ["registry"]},
        "namespaces": ["team-a", "team-b"],
        "operator": {"replicas": 2},
        "gateway": {"replicas": 2},
        "mlflow": {"embedded": {"enabled": True}},
        "networkPolicies": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
        "metrics": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")},
    },
}

SETTINGS = "ultramarine.dev/settings"  # the annotation with the operator's settings


def rendered(chart: Chart, values: Manifest) -> str:
    """The chart as one text; of generated keys, which are others each time, of dashboard and alerts only the names."""
    as_they_are = {manifest["metadata"]["name"] for manifest in people.manifests()}
    documents = [
        found
        for found in chart.render(values)
        if found["kind"] != "CustomResourceDefinition" and found["metadata"]["name"] not in as_they_are
    ]
    for found in documents:
        if found["kind"] in ("Secret", "ConfigMap"):
            found["data"] = sorted(found["data"])
        elif found["kind"] == "Deployment" and (noted := found["spec"]["template"]["metadata"].get("annotations")):
            settings = yaml.safe_load(noted.get(SETTINGS, ""))
            noted.update(dict.fromkeys(noted, "HASH") | ({SETTINGS: settings} if settings else {}))
        elif found["kind"] == "PrometheusRule":
            found["spec"] = [rule["alert"] for group in found["spec"]["groups"] for rule in group["rules"]]
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, width=110)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_chart_is_as_in_the_file(example, request, helm):  # noqa: F811
    """The objects that these values install are, to the letter, those in the golden file."""
    path = HERE / f"{example}.yaml"
    text = rendered(Chart(helm), EXAMPLES[example])
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{HEADER}{text}")

    assert path.exists(), f"there is no {path.name}; write it with --update-golden"
    assert path.read_text() == f"{HEADER}{text}", "read the difference, and write the file with --update-golden"


def test_every_rendered_chart_has_its_example():
    """No file is left behind by an example that is gone."""
    assert {path.stem for path in HERE.glob("*.yaml")} == set(EXAMPLES)
