"""The first day of a newcomer: an own CSV, a forest, a sweep, a served model, a bad version, and a second namespace.

The tests tell one story and build on each other; the last one changes the namespaces of the release.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import NAMESPACE, Manifest, Platform, condition, restricted
from load import OpenLoad
from manifests import endpoint
from sklearn.datasets import load_wine
from ultramarine import Client
from ultramarine_cluster import cluster, pki, target
from ultramarine_operator.generate import people

NAME, COLLEAGUE = "wine", "ada"
SECOND = f"{NAMESPACE}-second"
SCRIPT = (Path(__file__).parent / "newcomer_train.py").read_text()


def wine() -> pd.DataFrame:
    """The table of the story: 178 wines of three cultivars, with a cell missing in every tenth row."""
    table = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    table.loc[::10, "malic_acid"] = None
    return table


def forest(name: str, uri: str, *options: str, **spec: object) -> Manifest:
    """A TrainingJob that fits a forest to the CSV at `uri` and registers it."""
    command = ["python", "train.py", "--data=$(inputs.table)/wine.csv", "--out=$(outputs.model)", *options]
    return {
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "source": {"inline": {"train.py": SCRIPT}},
            "command": command,
            "inputs": {"table": {"uri": uri}},
            "outputs": {"model": {"registerAs": NAME}},
            **spec,
        },
    }


def rows(count: int) -> Manifest:
    """The body of a request for the first wines, as JSON that a browser would write: missing cells are null."""
    table = wine().drop(columns="cultivar").head(count)
    records = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return {"dataframe_records": records}


@pytest.fixture(scope="module")
def cellar(platform: Platform) -> Iterator[tuple[Platform, str]]:
    """The platform, with the newcomer's CSV in the bucket."""
    uri = platform.put(f"{NAME}/wine.csv", wine().to_csv(index=False).encode())
    yield platform, uri
    platform.delete("oe", NAME)
    platform.delete("sw", NAME)


@pytest.mark.slow
def test_a_forest_is_trained_with_autolog_and_served(cellar):
    """A forest saved as .skops becomes a version and answers, rows with missing cells too, without any consent."""
    platform, uri = cellar
    platform.apply(forest(NAME, uri), endpoint(NAME, f"{NAME}@latest"))
    status = platform.ended(NAME, 300)  # autolog stores a model for each fit of the cross validation
    assert status["state"] == "Succeeded", status.get("failure")
    platform.ready(NAME, f"{NAME}-1")
    with platform.client(NAME) as client:
        answer = client.post("/invocations", json=rows(40))
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    right = sum(predicted == actual for predicted, actual in zip(predictions, wine()["cultivar"], strict=False))
    assert (len(predictions), right) == (40, 40)


@pytest.mark.slow
def test_the_forest_is_compiled_while_it_serves(cellar):
    """By default the version's answers are compared, and the endpoint rolls without a failed request."""
    platform, _ = cellar
    with OpenLoad(platform, NAME, rows(1), path="/invocations") as load:
        platform.wait("mv", f"{NAME}-1", lambda s: (s.get("compiled") or {}).get("uri"))
        platform.settled(NAME)
    assert load.failures == []


@pytest.mark.slow
def test_the_best_of_a_sweep_takes_over(cellar):
    """The best trial's forest becomes version 2, and @latest follows."""
    platform, uri = cellar
    job = forest("unused", uri, "--depth=$(params.depth)", "--plain")["spec"]
    template = {key: job[key] for key in ("source", "command", "inputs")} | {"outputs": {"model": {}}}
    platform.apply(
        {
            "kind": "Sweep",
            "metadata": {"name": NAME},
            "spec": {
                "objective": {"metric": "cv_accuracy", "goal": "maximize"},
                "searchSpace": {"depth": {"int": {"min": 1, "max": 6}}},
                "limits": {"maxTrials": 4, "parallelTrials": 2},
                "registerBest": NAME,
                "trialTemplate": {"spec": template},
            },
        }
    )
    status = platform.wait("sw", NAME, lambda s: s.get("state") in ("Succeeded", "Failed"), 240)
    assert (status["state"], status["modelVersion"]) == ("Succeeded", f"{NAME}-2"), status
    platform.ready(NAME, f"{NAME}-2")


@pytest.mark.slow
def test_a_version_with_another_signature_does_not_take_over(cellar):
    """Version 3 lacks a column that clients send: the rollout ends, says so, and no request meets it for long."""
    platform, uri = cellar
    platform.apply(forest(f"{NAME}-narrow", uri, "--drop=alcohol", "--plain"))
    status = platform.ended(f"{NAME}-narrow")
    assert status["modelVersion"] == f"{NAME}-3", status
    blue, green = {"name": "blue", "model": f"{NAME}@2"}, {"name": "green", "model": f"{NAME}@3"}
    rollout = {"candidate": "green", "steps": [50, 100], "stepSeconds": 5, "gates": {"errorRateIncrease": 0.05}}
    platform.apply(endpoint(NAME, "", deployments=[blue, green], traffic={"blue": 100}, rollout=rollout))
    with OpenLoad(platform, NAME, rows(1), path="/invocations"):
        status = platform.wait(
            "oe", NAME, lambda s: (s.get("rollout") or {}).get("phase") in ("Promoted", "RolledBack", "Paused"), 240
        )
    assert status["rollout"]["phase"] != "Promoted", status["rollout"]
    told = condition(status, "RolloutHealthy")
    assert (told["status"], status["traffic"]) == ("False", {"blue": 100}), status
    with platform.client(NAME) as client:
        assert {client.post("/invocations", json=rows(1)).status_code for _ in range(20)} == {200}


@pytest.fixture
def colleague(platform: Platform, tmp_path: Path) -> Iterator[Platform]:
    """The platform as a data scientist of a second namespace has it, who has no rights anywhere else."""
    admin, running = platform.target, cluster.up()
    restricted(admin, SECOND)
    admin.run("apply", "-f", "-", input=yaml.safe_dump_all(people.manifests()))
    role = ("--clusterrole=ultramarine-data-scientist", f"--user={COLLEAGUE}")
    admin.run("-n", SECOND, "create", "rolebinding", COLLEAGUE, *role)
    authority = pki.Authority(running.state.pki, "ca")
    pair = authority.issue(COLLEAGUE, pki.Leaf(COLLEAGUE))
    kubeconfig = pki.kubeconfig(tmp_path / "kubeconfig", running.url, authority, pair)
    helm = [*admin.helm, "upgrade", "ultramarine", str(target.CHART), "-n", NAMESPACE, "--reset-then-reuse-values"]
    helm += ["--wait", "--timeout=300s", "--set"]
    try:
        subprocess.run([*helm, f"namespaces={{{SECOND}}}"], check=True, capture_output=True)
        yield Platform(replace(admin, kubectl=(admin.kubectl[0], "--kubeconfig", str(kubeconfig))), SECOND)
    finally:
        # The operator loses its rights there before it hears of it: nothing of its own may be left to look after.
        admin.run("-n", SECOND, "delete", "oe,sw,tj,mdl,mv", "--all", "--timeout=240s")
        subprocess.run([*helm, "namespaces=null"], check=True, capture_output=True)
        admin.run("delete", "namespace", SECOND, "--wait=false")


@pytest.mark.slow
@pytest.mark.exclusive
def test_a_data_scientist_in_a_second_namespace_needs_no_other_rights(cellar, colleague, tmp_path):
    """With that role alone: her own CSV, a forest, an endpoint with her own key, and an answer; not the neighbour's."""
    wine().to_csv(tmp_path / "wine.csv", index=False)
    with Client(kubeconfig=colleague.target.kubectl[-1], namespace=SECOND) as client:
        client.data.put(tmp_path / "wine.csv")
    colleague.kubectl("create", "secret", "generic", "own-keys", "--from-literal=primary=" + "a-key-of-her-own" * 2)
    served = endpoint(NAME, f"{NAME}@latest", keysSecretRef={"name": "own-keys"})
    colleague.apply(forest(NAME, f"s3://ultramarine/{SECOND}/wine.csv", "--plain"), served)
    status = colleague.ended(NAME)
    assert status["state"] == "Succeeded", status.get("failure")
    colleague.ready(NAME, f"{NAME}-1")
    with colleague.client(NAME, key="a-key-of-her-own" * 2) as client:
        answer = client.post("/invocations", json=rows(3))
    assert answer.status_code == 200, answer.text
    assert COLLEAGUE in status["provenance"]["requestedBy"]
    denied = [*colleague.target.kubectl, "-n", NAMESPACE, "get", "tj"]
    assert "forbidden" in subprocess.run(denied, capture_output=True, text=True, check=False).stderr
