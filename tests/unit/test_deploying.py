"""Endpoints made and changed by `endpoints deploy`, kept keys, and sentences about errors."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from ultramarine.endpoints import progress_of
from ultramarine.kube.client import Cluster
from ultramarine.kube.config import Access
from ultramarine.models import Models, format_of, needs_consent
from ultramarine.serving import deploying, keys
from ultramarine.serving.route import Answer, asleep, failure
from ultramarine_contract.errors import InvalidSpec, UltramarineError

CONTENT = deploying.Content("churn@9", replicas=2)
LIVE = {
    "metadata": {"name": "churn", "generation": 2},
    "spec": {"deployments": [{"name": "blue", "model": "churn@8", "batching": {"maxBatchSize": 8}}]},
}


def test_a_new_endpoint_has_one_deployment() -> None:
    """Fields that are not given are left to the schema's defaults."""
    made = deploying.new_endpoint("churn", "", CONTENT)
    assert made["spec"] == {"deployments": [{"name": "blue", "model": "churn@9", "replicas": 2}]}


def test_an_existing_deployment_keeps_its_other_fields() -> None:
    """The only deployment needs no name."""
    [changed] = deploying.changed_spec(LIVE, "", CONTENT)["deployments"]
    assert changed == {"name": "blue", "model": "churn@9", "batching": {"maxBatchSize": 8}, "replicas": 2}
    assert LIVE["spec"]["deployments"][0]["model"] == "churn@8"  # type: ignore[index]


def test_a_new_deployment_gets_no_traffic() -> None:
    """The endpoint answers as before until traffic is turned."""
    changed = deploying.changed_spec(LIVE, "green", CONTENT)
    assert [entry["name"] for entry in changed["deployments"]] == ["blue", "green"]
    assert changed["traffic"] == {"blue": 100}


def test_a_file_of_azure_joins_the_deployments_of_its_endpoint() -> None:
    """A new deployment gets nothing, one of the same name is replaced, and stated traffic holds."""
    green = {"deployments": [{"name": "green", "model": "churn@9"}], "traffic": {"green": 100}}
    blue = {"deployments": [{"name": "blue", "model": "churn@9"}]}
    split = {**LIVE, "spec": {**LIVE["spec"], "traffic": {"blue": 100}}}  # type: ignore[dict-item]

    added = deploying.joined_spec(LIVE, green, turns_traffic=False)
    assert [entry["name"] for entry in added["deployments"]] == ["blue", "green"]
    assert added["traffic"] == {"blue": 100}
    assert deploying.joined_spec(LIVE, blue, turns_traffic=False)["deployments"] == blue["deployments"]
    assert deploying.joined_spec(split, green, turns_traffic=True)["traffic"] == {"blue": None, "green": 100}


def test_a_model_that_no_server_loads_needs_a_script() -> None:
    """Another format does not, nor a deployment that has a script already."""
    bare, scripted = (
        {"name": "blue", "model": "churn@9"},
        {"name": "blue", "model": "churn@9", "scoring": {"entry": "a"}},
    )
    with pytest.raises(InvalidSpec, match=r"churn@9 has the format custom.* --scoring score\.py"):
        deploying.check_scoring("churn@9", "custom", [bare])
    deploying.check_scoring("churn@9", "onnx", [bare])
    deploying.check_scoring("churn@9", "custom", [scripted, {"name": "green", "model": "churn@8"}])


def test_a_name_is_refused_in_words() -> None:
    """With a name that is possible; an option that is not given is right."""
    with pytest.raises(InvalidSpec, match=r"--name Zz_1: a name has lower-case letters.* Write zz-1\."):
        deploying.check_name("--name", "Zz_1")
    deploying.check_name("--name", "")


def test_choices_that_are_not_clear_are_refused() -> None:
    """Several deployments, a pool and a container."""
    two = {"metadata": {"name": "churn"}, "spec": {"deployments": [{"name": "blue"}, {"name": "green"}]}}
    with pytest.raises(InvalidSpec, match=r"several deployments: blue, green. Choose one by --deployment"):
        deploying.changed_spec(two, "", CONTENT)
    pool = {"metadata": {"name": "churn"}, "spec": {"deployments": [{"name": "blue", "pool": {}}]}}
    with pytest.raises(InvalidSpec, match="is a pool"):
        deploying.changed_spec(pool, "", CONTENT)


def test_words_of_the_command_line() -> None:
    """References and shares."""
    assert deploying.reference_of("churn") == "churn@latest"
    assert deploying.reference_of("churn@champion") == "churn@champion"
    assert deploying.parse_traffic(["blue=90", "green=10%"]) == {"blue": 90, "green": 10}
    for wrong in (lambda: deploying.reference_of("churn@"), lambda: deploying.parse_traffic(["blue"])):
        with pytest.raises(InvalidSpec):
            wrong()


def test_kept_keys_are_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has mode 600, and keys are found by cluster, namespace and Secret."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first, other = (Cluster(Access(f"http://{host}", "team-a")) for host in ("a", "b"))
    keys.keep(first, "churn-keys", {"primary": "p"})
    keys.keep(first, "wine-keys", {"primary": "q"})
    assert keys.kept(first, "churn-keys") == {"primary": "p"}
    assert keys.kept(first, "wine-keys") == {"primary": "q"}
    assert keys.kept(other, "churn-keys") == {}
    assert stat.S_IMODE(keys.file().stat().st_mode) == 0o600
    keys.file().write_text("damaged")
    with pytest.raises(UltramarineError, match=r"cannot be read: .* Repair it, or move it away"):
        keys.kept(first, "churn-keys")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(keys.file()))
    with pytest.raises(UltramarineError, match=r"cannot be written, where keys are kept. Set XDG_CONFIG_HOME"):
        keys.keep(first, "churn-keys", {})


@pytest.mark.parametrize(("valid", "status", "key"), [("s", 200, "s"), ("p", 200, "p"), ("x", 401, "old")])
def test_the_secondary_key_opens_an_endpoint_as_long_as_the_primary_is_new(valid: str, status: int, key: str) -> None:
    """The fresh primary key comes first; a refusal of all keys is the answer to the first."""
    fresh = {"primary": "p", "secondary": "s"}
    refused, accepted = Answer(401, {}, b""), Answer(200, {}, b"")

    chosen, answer = keys.answered("old", lambda: fresh, lambda sent: accepted if sent == valid else refused)
    assert (chosen, answer.status) == (key, status)


@pytest.mark.parametrize(
    ("status", "words", "sentence"),
    [
        (400, "feature 'agee' is unknown", "endpoint churn refuses the request: feature 'agee' is unknown. Correct"),
        (401, "a valid key is needed", "does not accept the key or token. Take the key of `ultramarine endpoints keys"),
        (404, "no deployment green", "endpoint churn: no deployment green. Correct the deployment"),
        (413, "the body is too large", "Send fewer rows at once"),
        (500, "the model failed", "`ultramarine endpoints logs churn` has the trace"),
        (503, "no pod is ready", "`ultramarine describe oe churn` has the cause"),
        (504, "no answer within 60 s", "raise requestSettings.timeoutSeconds"),
    ],
)
def test_an_error_is_a_sentence_with_a_remedy(status: int, words: str, sentence: str) -> None:
    """The server's words stand in it."""
    error = failure("churn", Answer(status, {}, json.dumps({"error": words}).encode()))
    assert sentence in error.message
    assert error.status == status


def test_a_page_of_another_server_is_a_sentence() -> None:
    """Containers answer errors as HTML."""
    page = b"<!DOCTYPE HTML><html><head><title>Oh</title></head><body><p>File not found.</p></body></html>"
    error = failure("chat", Answer(404, {}, page))
    assert error.message == "endpoint chat: File not found. Correct the deployment, the model or the path."


def test_progress_is_that_of_the_newest_spec() -> None:
    """An old status, a failing deployment, routes that are not confirmed, and the end."""
    ready = {"type": "Ready", "status": "True", "message": "churn-9 answers"}
    entry = {"name": "blue", "state": "Ready", "readyReplicas": 1}
    status = {"observedGeneration": 2, "conditions": [ready], "deployments": [entry]}
    assert progress_of(LIVE | {"status": status}) == ("churn-9 answers", True, False)
    assert progress_of(LIVE | {"status": status | {"observedGeneration": 1}})[1:] == (False, False)
    failing = entry | {"state": "Failing", "message": "DependencyMissing"}
    text, is_ready, fails = progress_of(LIVE | {"status": status | {"deployments": [failing]}})
    assert (text, is_ready, fails) == ("deployment blue is failing: DependencyMissing", False, True)
    waiting = {"type": "Reconciling", "status": "True", "message": "routes"}
    assert not progress_of(LIVE | {"status": status | {"conditions": [ready, waiting]}})[1]


def test_an_endpoint_sleeps_only_if_all_that_answer_do() -> None:
    """Zero ready pods of a deployment that is ready by scaling to zero."""
    sleeping = {"name": "blue", "state": "Ready", "readyReplicas": 0, "autoscale": {"replicas": 0}}
    awake = {"name": "green", "state": "Ready", "readyReplicas": 1}
    endpoint = {"status": {"traffic": {"blue": 100}, "deployments": [sleeping, awake]}}
    assert asleep(endpoint)
    assert not asleep(endpoint, "green")
    assert not asleep({"status": {**endpoint["status"], "traffic": {"blue": 50, "green": 50}}})


def test_formats_of_files_on_this_machine(tmp_path: Path) -> None:
    """Detected by suffix and folder; otherwise the message says what would be."""
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("x")
    assert format_of(tmp_path / "model.onnx") == "onnx"
    assert format_of(tmp_path) == "onnx"
    assert format_of(tmp_path, "custom") == "custom"
    with pytest.raises(InvalidSpec, match="has no model that can be detected"):
        format_of(tmp_path / "notes.md")
    with pytest.raises(InvalidSpec, match="has no file that the format onnx is read from"):
        format_of(tmp_path / "notes.md", "onnx")

    with pytest.raises(InvalidSpec, match="Did you mean sklearn"):
        format_of(tmp_path, "sklern")
    with pytest.raises(InvalidSpec, match="does not exist"):
        format_of(tmp_path / "absent")
    (tmp_path / "second.onnx").write_bytes(b"x")
    with pytest.raises(InvalidSpec, match=r"several models: model.onnx, second.onnx"):
        format_of(tmp_path)


def test_a_model_of_own_code_needs_consent(tmp_path: Path) -> None:
    """A pickle, and an MLflow model that only MLflow loads; one in a library's format needs none."""
    assert needs_consent(tmp_path / "model.pkl", "pickle")
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    env: conda.yaml\n")
    assert needs_consent(tmp_path, "mlflow")
    (tmp_path / "MLmodel").write_text("flavors:\n  lightgbm:\n    data: model.lgb\n  python_function:\n    a: b\n")
    assert not needs_consent(tmp_path, "mlflow")


def test_a_skops_file_with_own_code_is_refused_before_the_upload(tmp_path: Path) -> None:
    """The type is named, as after the upload; a file of known types goes on to the upload."""
    own = make_pipeline(FunctionTransformer(json.dumps), LogisticRegression())
    (tmp_path / "own.skops").write_bytes(skops.io.dumps(own))
    models = Models(cast(Any, SimpleNamespace(cluster=None, platform=None)))

    with pytest.raises(InvalidSpec, match=r"not known to be safe: json\.dumps; repeat with --allow-code-execution"):
        models.add(tmp_path / "own.skops", "churn")
    (tmp_path / "known.skops").write_bytes(skops.io.dumps(LogisticRegression()))
    (tmp_path / "damaged.skops").write_bytes(b"x")
    for name, code_allowed in (("known", False), ("damaged", False), ("own", True)):
        with pytest.raises(AttributeError, match="'NoneType' object"):  # the upload, which has no platform here
            models.add(tmp_path / f"{name}.skops", "churn", "sklearn", allow_code_execution=code_allowed)
