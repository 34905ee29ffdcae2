"""Models and endpoints by the command and the SDK on the cluster, with the rights of a data scientist."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import skops.io
from conftest import Platform, condition
from person import Person, data_scientist
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from ultramarine import Client
from ultramarine.endpoints import Endpoint
from ultramarine.serving.route import EndpointError

PEOPLE = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0] * 5, "plan": ["basic", None, "gold", "gold"] * 5})
SCORE = "import json\ndef init():\n    pass\ndef run(data):\n    return {'rows': len(json.loads(data)['data'])}\n"


def trained(*answers: str) -> Pipeline:
    """A model of a number and a text, which answers by age."""
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["plan"]), remainder="passthrough")
    labels = np.where(PEOPLE["age"] < 50, *answers)
    return make_pipeline(columns, LogisticRegression()).fit(PEOPLE, labels)


@pytest.fixture(scope="module")
def ada(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The data scientist, who imports two versions and deploys the first under the alias champion."""
    folder = tmp_path_factory.mktemp("ada")
    platform.kubectl("delete", "secret", "command-churn-keys", "command-scored-keys", "--ignore-not-found")
    person = Person(folder, data_scientist(platform, "endpoints-ada", folder))
    for version, answers in enumerate((("stays", "leaves"), ("no", "yes")), 1):
        (folder / f"v{version}").mkdir()
        skops.io.dump(trained(*answers), folder / f"v{version}" / "model.skops")
        done = person.run("models", "import", f"v{version}", "--as", "command-churn")
        assert done.stdout == f"command-churn@{version}\n"
    person.run("models", "promote", "command-churn@1", "--alias", "champion")
    PEOPLE.to_csv(folder / "rows.csv", index=False)
    PEOPLE.to_parquet(folder / "rows.parquet")
    done = person.run("endpoints", "deploy", "command-churn@champion", "--memory", "512Mi")
    assert "Made two keys in Secret command-churn-keys" in done.stderr
    assert done.stdout.startswith("command-churn is ready: http://command-churn.")
    return person


@pytest.fixture
def client(ada: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The SDK with her rights."""
    monkeypatch.setenv("XDG_CONFIG_HOME", ada.environment["XDG_CONFIG_HOME"])
    with Client(kubeconfig=str(ada.kubeconfig)) as client:
        yield client


def predictions(ada: Person, *words: str) -> list[str]:
    """The first output of `endpoints invoke`."""
    answer = json.loads(ada.run("endpoints", "invoke", "command-churn", *words).stdout)
    return list(answer["predict"])


def test_models_are_listed_shown_and_downloaded(ada: Person) -> None:
    """Versions with their alias, and the same files again."""
    assert "command-churn" in ada.run("models", "list").stdout
    assert "onlineendpoints/command-churn\n" in ada.run("endpoints", "list", "-o", "name").stdout
    assert len(ada.run("models", "list", "command-churn").stdout.splitlines()) == 3
    shown = ada.run("models", "show", "command-churn@champion").stdout
    end = time.monotonic() + 120
    while "has no ready pod" in shown and time.monotonic() < end:  # a busy machine delays the answers to probes
        shown = ada.run("models", "show", "command-churn@champion").stdout
    assert "state: Ready" in shown
    assert "endpoints: command-churn" in shown
    assert "model.skops: " in shown
    assert "name: plan" in shown, f"the signature that its server has inferred\n{shown}"
    assert ada.run("models", "download", "command-churn@1", "copy").stdout == "copy\n"
    assert (ada.folder / "copy" / "model.skops").read_bytes() == (ada.folder / "v1" / "model.skops").read_bytes()


def test_rows_are_asked_in_each_form(ada: Person) -> None:
    """JSON, CSV and Parquet, as JSON and as a table; a test makes its own row."""
    expected = ["stays", "stays", "leaves", "leaves"] * 5
    assert predictions(ada, "--data", '[[20, "basic"], [70, "gold"]]') == ["stays", "leaves"]
    assert predictions(ada, "--data", '{"age": 70, "plan": null}') == ["leaves"]
    assert predictions(ada, "--data", "@rows.csv") == predictions(ada, "--data", "@rows.parquet") == expected
    table = ada.run("endpoints", "invoke", "command-churn", "--data", "@rows.csv", "-o", "table").stdout
    assert len(table.splitlines()) == 21
    assert "predict_proba" in ada.run("endpoints", "logs", "command-churn").stdout
    done = ada.run("endpoints", "test", "command-churn")
    assert '"plan": "basic"' in done.stderr
    assert "predict" in json.loads(done.stdout)


def test_data_frames_are_predicted_by_the_sdk(client: Client) -> None:
    """Arrays in, arrays out; many rows in several requests."""
    endpoint = client.endpoint("command-churn")
    many = pd.concat([PEOPLE] * 2000, ignore_index=True)
    assert endpoint.ready
    assert np.array_equal(endpoint.predict(many), np.array(["stays", "stays", "leaves", "leaves"] * 10000))
    assert endpoint.infer(PEOPLE)["predict_proba"].shape == (20, 2)
    with pytest.raises(EndpointError, match="does not accept the key or token"):
        client.endpoint("command-churn", key="wrong").predict(PEOPLE)


def test_traffic_turns_to_another_version(ada: Person, platform: Platform) -> None:
    """A second deployment is asked before it has traffic, gets all of it, and the champion moves by an alias."""
    ada.run("endpoints", "deploy", "command-churn@2", "--deployment", "green", "--memory", "512Mi")
    assert predictions(ada, "--data", '[[70, "gold"]]') == ["leaves"]
    assert predictions(ada, "--deployment", "green", "--data", '[[70, "gold"]]') == ["yes"]
    assert "green=100" in ada.run("endpoints", "traffic", "command-churn", "blue=0", "green=100").stdout
    assert predictions(ada, "--data", '[[70, "gold"]]') == ["yes"]
    done = ada.run("models", "promote", "command-churn@2")
    assert "Endpoints that follow: command-churn" in done.stderr
    assert "leads to command-churn-2" in ada.run("models", "delete", "command-churn@2", code=1).stderr


def test_keys_are_kept_for_their_maker(ada: Person, platform: Platform) -> None:
    """She may not read the Secret, has the keys, and may rotate them once she has the right to that Secret."""
    platform.kubectl("delete", "role,rolebinding", "command-churn-keys", "--ignore-not-found")
    printed = ada.run("endpoints", "keys", "command-churn").stdout
    assert platform.secret("command-churn-keys")["primary"] in printed
    assert "cannot patch" in ada.run("endpoints", "keys", "command-churn", "--rotate", code=1).stderr
    right = ("--verb=get,patch", "--resource=secrets", "--resource-name=command-churn-keys")
    platform.kubectl("create", "role", "command-churn-keys", *right)
    platform.kubectl("create", "rolebinding", "command-churn-keys", "--role=command-churn-keys", "--user=endpoints-ada")
    renewed = ada.run("endpoints", "keys", "command-churn", "--rotate").stdout
    former = re.search("primary: (.*)", printed)
    assert former
    assert f"secondary: {former[1]}" in renewed
    rows = ("endpoints", "invoke", "command-churn", "--data", '[{"plan": "gold", "age": 40}]')
    deadline = time.monotonic() + 300  # the gateway reads a changed Secret within 90 s
    while (process := ada.begin(*rows)).wait(120):
        assert time.monotonic() < deadline, process.communicate()


def test_a_script_with_its_folder(ada: Person) -> None:
    """The folder is uploaded, rows go to the script, and a row cannot be made."""
    (ada.folder / "scoring").mkdir()
    (ada.folder / "scoring" / "score.py").write_text(SCORE)
    words = ("endpoints", "deploy", "command-churn@1", "--name", "command-scored", "--scoring", "scoring")
    ada.run(*words, "--memory", "512Mi")
    answer = ada.run("endpoints", "invoke", "command-scored", "--data", "[[1], [2]]").stdout
    assert json.loads(answer) == {"rows": 2}
    assert "without a signature" in ada.run("endpoints", "test", "command-scored", code=1).stderr


def test_a_table_reaches_a_script_as_azures_examples_read_it(ada: Person, client: Client) -> None:
    """`json.loads(data)["data"]` has the rows of a CSV file and of a data frame."""
    asked = ada.run("endpoints", "invoke", "command-scored", "--data", "@rows.csv")
    assert json.loads(asked.stdout) == {"rows": 20}
    assert client.endpoint("command-scored").predict(PEOPLE) == {"rows": 20}


def test_consent_is_asked_for_at_registration(ada: Person, platform: Platform) -> None:
    """A job that registers a pickle ends with the command that allows it; the version is ready after that."""
    (ada.folder / "pickles").mkdir()
    (ada.folder / "pickles" / "train.py").write_text(
        "import os, pickle\nfolder = os.environ['AZURE_ML_OUTPUT_model']\n"
        "pickle.dump({}, open(os.path.join(folder, 'model.pkl'), 'wb'))\n"
    )
    done = ada.run("submit", "pickles/train.py", "--register", "command-pickled")
    assert "which runs code when it is loaded" in done.stderr
    assert "ultramarine models trust command-pickled@1" in done.stderr
    platform.wait("mv", "command-pickled-1", lambda status: status.get("state") == "Refused")
    assert "may run code" in ada.run("models", "trust", "command-pickled@1").stdout
    platform.wait("mv", "command-pickled-1", lambda status: status.get("state") == "Ready")


@pytest.mark.slow
def test_an_endpoint_that_sleeps_is_woken(ada: Person, platform: Platform, client: Client) -> None:
    """The note names the wait, and the answer comes."""
    autoscale = {"minReplicas": 0, "maxReplicas": 1, "metric": "concurrency", "target": 1, "scaleDownAfterSeconds": 1}
    deployment = {"name": "blue", "model": "command-churn@1", "autoscale": autoscale}
    manifest = {"kind": "OnlineEndpoint", "metadata": {"name": "command-asleep"}}
    ada.run("apply", ada.write("asleep.yaml", {**manifest, "spec": {"authMode": "none", "deployments": [deployment]}}))
    platform.wait("oe", "command-asleep", lambda s: s.get("replicas") == "0/0" and condition(s, "Ready"))
    notes: list[str] = []
    endpoint = Endpoint(client, "command-asleep", note=notes.append)
    assert endpoint.predict([[70, "gold"]]) == ["leaves"]
    assert "Endpoint command-asleep sleeps" in notes[0]
    platform.wait("oe", "command-asleep", lambda s: s.get("replicas") == "0/0")
    done = ada.run("endpoints", "invoke", "command-asleep", "--data", '[[20, "basic"]]')
    assert json.loads(done.stdout)["predict"] == ["stays"]
    assert "Endpoint command-asleep sleeps; its first pod starts now" in done.stderr
    platform.delete("oe", "command-asleep", "command-scored")


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("endpoints", "test", "command-chrun"), "Did you mean command-churn?"),
        (("endpoints", "deploy", "command-churn@7"), "model command-churn has no version 7. Versions: 2, 1."),
        (("endpoints", "deploy", "command-churn@champoin"), "Did you mean champion?"),
        (("endpoints", "deploy", "command-chrun"), "Did you mean command-churn?"),
        (("endpoints", "traffic", "command-churn", "blue=90"), "traffic must sum to 100"),
        (("endpoints", "traffic", "command-churn", "bleu=100"), "Did you mean blue?"),
        (("endpoints", "invoke", "command-churn", "--data", '[["x", "gold"]]'), "refuses the request: .*'age'"),
        (("endpoints", "invoke", "command-churn", "--key", "wrong", "--data", "[[1, null]]"), "does not accept"),
        (("models", "promote", "command-churn@7"), "has no version 7"),
        (("models", "download", "command-churn@1", "v2"), "v2 exists with other content"),
    ],
)
def test_an_error_is_a_sentence_with_a_remedy(ada: Person, words: tuple[str, ...], cause: str) -> None:
    """No trace, one line that names the object, exit code 1."""
    err = ada.run(*words, code=1).stderr
    assert re.search(cause, err)
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
