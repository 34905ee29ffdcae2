"""The command against a real API server: the shape of its output, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from bare import PLATFORM, Api
from ultramarine_cluster.cluster import Cluster
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.storage import Storage

COMMAND = Path(sys.executable).parent / "ultramarine"


class User:
    """A user of the command in a fresh namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self._words = [str(COMMAND), "--kubeconfig", str(kubeconfig), "-n", namespace]
        self.folder = folder

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command; its exit code must be `code`."""
        ended = subprocess.run([*self._words, *words], cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert ended.returncode == code, ended.stderr
        return ended

    @contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run the command while the block runs; its output and errors come by one pipe."""
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen([*self._words, *words], cwd=self.folder, text=True, **pipe) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def user(bare: Cluster, api: Api, tmp_path: Path) -> User:
    """A user of the command in an empty folder."""
    return User(bare.kubeconfig, api.namespace, tmp_path)


def job(name: str, **spec: Any) -> Manifest:
    """Return a small job."""
    fields = {"command": ["python", "train.py"], **spec}
    return {"apiVersion": API_VERSION, "kind": "TrainingJob", "metadata": {"name": name}, "spec": fields}


def sweep(name: str, **spec: Any) -> Manifest:
    """Return a small sweep."""
    fields = {
        "objective": {"metric": "loss", "goal": "minimize"},
        "searchSpace": {"x": {"uniform": {"min": 0, "max": 1}}},
        "limits": {"maxTrials": 5},
        "trialTemplate": {"spec": {"command": ["python", "train.py", "$(params.x)"]}},
        **spec,
    }
    return {"apiVersion": API_VERSION, "kind": "Sweep", "metadata": {"name": name}, "spec": fields}


def test_a_list_is_a_list_whatever_its_length(user: User, api: Api) -> None:
    """Programs read `items` of 0, 1 and 2 objects; an object by its name stands alone."""
    lengths = []
    for name in ("a", "b", ""):
        listing = json.loads(user.run("get", "tj", "-o", "json").stdout)
        lengths.append(len(listing["items"]))
        if name:
            api.apply(job(name))

    assert lengths == [0, 1, 2]
    assert json.loads(user.run("get", "tj", "a", "-o", "json").stdout)["metadata"]["name"] == "a"
    assert json.loads(user.run("get", "tj/a", "-o", "json").stdout)["metadata"]["name"] == "a"


@pytest.mark.parametrize(
    ("words", "kind", "spec"),
    [
        (("models", "list"), "Model", {}),
        (("endpoints", "list"), "OnlineEndpoint", {"deployments": [{"name": "blue", "model": "churn@1"}]}),
        (("run", "list"), "PipelineRun", {"pipeline": "churn"}),
        (("schedule", "list"), "Schedule", {"cron": "@daily", "template": {"kind": "TrainingJob", "spec": {}}}),
    ],
)
def test_lists_of_groups_have_the_shape_of_get(
    user: User, api: Api, words: tuple[str, ...], kind: str, spec: Any
) -> None:
    """A List of whole objects, which is empty without any."""
    empty = json.loads(user.run(*words, "-o", "json").stdout)
    api.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "churn"}, "spec": spec})
    filled = json.loads(user.run(*words, "-o", "json").stdout)

    assert empty == {"apiVersion": "v1", "kind": "List", "items": []}
    assert [(item["kind"], item["metadata"]["name"]) for item in filled["items"]] == [(kind, "churn")]
    assert user.run(*words, "-o", "name").stdout == f"{kind.lower()}s/churn\n"


def test_what_is_shown_has_a_name_for_pipes(user: User, api: Api) -> None:
    """The commands of one object print what `get` prints of it."""
    api.apply({**job("churn"), "kind": "PipelineRun", "spec": {"pipeline": "churn"}})
    api.apply(sweep("churn"))
    spec = {"model": "churn", "version": "1", "uri": "s3://lake/churn/", "digest": f"sha256:{'0' * 64}"}
    api.apply({**job("churn-1"), "kind": "ModelVersion", "spec": {**spec, "format": {"name": "sklearn"}}})

    for words, name in (
        (("run", "show", "churn"), "pipelineruns/churn"),
        (("sweep", "show", "churn"), "sweeps/churn"),
        (("models", "show", "churn@1"), "modelversions/churn-1"),
    ):
        assert user.run(*words, "-o", "name").stdout == f"{name}\n"
        assert user.run("get", name, "-o", "name").stdout == f"{name}\n"
    assert json.loads(user.run("models", "show", "churn@1", "-o", "json").stdout)["kind"] == "ModelVersion"


def test_the_tab_key_completes_names(bare: Cluster, user: User, api: Api) -> None:
    """A shell gets kinds, objects, versions, aliases, contexts and namespaces, and nothing without a cluster."""
    api.apply(job("churn"))
    spec = {"model": "risk", "version": "1", "uri": "s3://lake/risk/", "digest": f"sha256:{'0' * 64}"}
    api.apply({**job("risk-1"), "kind": "ModelVersion", "spec": {**spec, "format": {"name": "sklearn"}}})

    def completed(words: str, kubeconfig: Path = bare.kubeconfig) -> list[str]:
        line = {"COMP_WORDS": f"ultramarine {words}", "COMP_CWORD": str(len(words.split(" ")))}
        cluster = {"KUBECONFIG": str(kubeconfig), "ULTRAMARINE_NAMESPACE": api.namespace}
        environment = {**os.environ, "_ULTRAMARINE_COMPLETE": "complete_bash", **line, **cluster}
        ended = subprocess.run([str(COMMAND)], env=environment, capture_output=True, text=True, check=False)
        assert ended.stderr == ""
        return ended.stdout.split()

    api.apply({**job("churn"), "kind": "Model", "spec": {"aliases": {"champion": "1"}}})
    for words, name in (
        ("get train", "trainingjobs"),
        ("get tj ch", "churn"),
        ("logs ch", "churn"),
        ("describe tj/ch", "tj/churn"),
        ("models show ri", "risk@1"),
        ("models show risk@", "risk@1"),
        ("models show churn@", "churn@champion"),
        ("-n kube-syst", "kube-system"),
    ):
        end = time.monotonic() + 60
        while completed(words) != [name] and time.monotonic() < end:  # a busy machine answers later than a key waits
            time.sleep(1)
        assert time.monotonic() < end, words
    assert len(completed("--context ")) == 1
    assert completed("get tj ch", Path("/nowhere/config")) == []


def test_a_result_without_an_object_has_no_name(user: User) -> None:
    """`-o name` of what is no object is refused, with the formats that there are."""
    for words in (("data", "diff", "a@1", "a@2"), ("data", "ls")):
        refused = user.run(*words, "-o", "name", code=2)
        assert "'name' is not one of 'table', 'json', 'yaml'" in refused.stderr


def test_apply_takes_folders_whose_paths_are_relative_to_their_files(user: User, api: Api) -> None:
    """The code lies beside the manifest, two folders below."""
    facts = {"release": "ultramarine", "bucket": "lake"}
    api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ultramarine-platform"}, "data": facts})
    place = user.folder / "jobs" / "churn"
    (place / "src").mkdir(parents=True)
    (place / "src" / "train.py").write_text("")
    (place / "job.yaml").write_text(yaml.safe_dump(job("churn", source={"path": "src"})))

    assert user.run("apply", "jobs", "--dry-run").stdout == "trainingjobs/churn applied (dry run)\n"


def test_apply_warns_once_of_a_namespace_that_no_operator_watches(user: User, api: Api) -> None:
    """The objects are made, as by kubectl, and wait for an administrator to add the namespace."""
    (user.folder / "jobs.yaml").write_text(yaml.safe_dump_all([job("first"), job("second")]))
    warning = f"Warning: what was applied waits without end: namespace {api.namespace} is not one of Ultramarine's"

    assert user.run("apply", "jobs.yaml").stderr.count(warning) == 1
    assert [entry["metadata"]["name"] for entry in api.all("tj")] == ["first", "second"]
    assert user.run("apply", "jobs.yaml", "--dry-run").stderr == ""
    api.apply(PLATFORM)
    assert user.run("apply", "jobs.yaml").stderr == ""


def test_apply_reads_all_files_first(user: User) -> None:
    """A fault in the second file leaves the first one's object unmade."""
    (user.folder / "a.yaml").write_text(yaml.safe_dump(job("a")))
    (user.folder / "b.yaml").write_text("kind: [")

    assert "b.yaml:2:1:" in user.run("apply", "a.yaml", "b.yaml", code=1).stderr
    assert json.loads(user.run("get", "tj", "-o", "json").stdout)["items"] == []


def test_a_name_is_enough_to_describe_an_object(user: User, api: Api) -> None:
    """If one object has it; of several, all are named."""
    api.apply(job("churn"))
    assert user.run("describe", "churn").stdout.startswith(f"TrainingJob {api.namespace}/churn: Pending")

    api.apply({"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "churn"}, "spec": {}})
    several = user.run("describe", "churn", code=1).stderr
    assert "several objects have the name churn: " in several
    assert "trainingjob/churn" in several
    assert "model/churn" in several
    assert user.run("describe", "model/churn").stdout.startswith("Model ")
    assert "no object in namespace" in user.run("describe", "absent", code=1).stderr
    assert "tj is the kind TrainingJob. Name an object too" in user.run("describe", "tj", code=1).stderr


def test_a_secret_of_ones_own_keys_is_named_when_its_endpoint_goes(user: User, api: Api) -> None:
    """Keys that the user put there stay: `apply` says that they are in use, and `delete` how they go."""
    api.run("create", "secret", "generic", "shop-keys", "--from-literal=primary=own")
    spec = {"deployments": [{"name": "blue", "model": "churn@1"}]}
    manifest = {"apiVersion": API_VERSION, "kind": "OnlineEndpoint", "metadata": {"name": "shop"}, "spec": spec}
    (user.folder / "shop.yaml").write_text(yaml.safe_dump(manifest))

    assert "Secret shop-keys exists already" in user.run("apply", "shop.yaml").stderr
    deleted = user.run("delete", "oe", "shop")
    assert deleted.stdout == "onlineendpoints/shop deleted\n"
    assert f"kubectl -n {api.namespace} delete secret shop-keys" in deleted.stderr
    assert api.get("secret", "shop-keys")["data"]


def test_a_run_is_cancelled_once(user: User, api: Api) -> None:
    """`cancel` sets spec.cancel; a run that has ended is neither cancelled, suspended nor resumed."""
    api.apply(job("churn"))
    assert "churn is cancelled" in user.run("cancel", "churn").stderr
    assert api.get("trainingjobs", "churn")["spec"]["cancel"] is True
    api.status("tj", "churn", {"state": "Cancelled"})
    for command in ("cancel", "suspend", "resume"):
        assert "TrainingJob churn has ended: Cancelled." in user.run(command, "churn", code=1).stderr


def test_the_version_is_printed(user: User) -> None:
    """Without a cluster."""
    assert user.run("--version").stdout == f"ultramarine {version('ultramarine')}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("get", "--watch"), "--watch takes a kind"),
        (("get", "tj,sw", "--watch"), "--watch takes a kind"),
        (("get", "tj", "a", "-l", "team=a"), "Give names or a selector"),
    ],
)
def test_get_refuses_what_it_would_ignore(user: User, words: tuple[str, ...], reason: str) -> None:
    """A question that it would answer in part is an error."""
    assert reason in user.run(*words, code=2).stderr


@pytest.mark.parametrize("names", [(), ("churn",)])
def test_a_change_is_a_line_while_watching(user: User, api: Api, names: tuple[str, ...]) -> None:
    """The table of what exists comes first, then a line for each change, and one for the deletion."""
    api.apply(job("churn"))
    with user.start("get", "tj", *names, "--watch") as watching:
        assert watching.stdout
        heading, row = watching.stdout.readline().split(), watching.stdout.readline().split()
        api.status("tj", "churn", {"state": "Running"})
        changed = watching.stdout.readline().split()
        api.run("delete", "tj", "churn")
        deleted = watching.stdout.readline()

    assert heading[:2] == ["NAME", "STATE"]
    assert (row[0], "Running" in row) == ("churn", False)
    assert changed[:2] == ["churn", "Running"]
    assert deleted == "trainingjobs/churn deleted\n"


def test_wide_has_more_columns(user: User, api: Api) -> None:
    """The columns of the table come in the same order, and those of lower priority among them."""
    api.apply(job("churn"))
    (narrow, _), (wide, row) = (user.run("get", "tj", "-o", output).stdout.splitlines() for output in ("table", "wide"))

    assert set(narrow.split()) < set(wide.split())
    assert row.startswith("churn ")


def test_the_arguments_of_a_script_are_not_the_commands(user: User) -> None:
    """`--debug` behind `--` is the script's: the error stays a sentence."""
    ended = user.run("submit", "absent.py", "--", "--debug", code=1)

    assert ended.stderr == "Error: absent.py does not exist. Correct the path.\n"


def test_delete_spares_models_that_are_in_use(user: User, api: Api) -> None:
    """A version under an alias stays, as with `models delete`, and a Model whose alias an endpoint follows."""
    version = {
        "model": "churn",
        "version": "1",
        "uri": "s3://lake/m/",
        "digest": f"sha256:{'a' * 64}",
        "format": {"name": "sklearn"},
    }
    serving = {"deployments": [{"name": "blue", "model": "churn@champion"}]}
    for kind, name, spec in (
        ("Model", "churn", {"aliases": {"champion": "1"}}),
        ("ModelVersion", "churn-1", version),
        ("OnlineEndpoint", "shop", serving),
    ):
        api.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})

    assert "alias champion of model churn leads to churn-1" in user.run("delete", "mv", "churn-1", code=1).stderr
    assert "endpoint shop follows churn@champion" in user.run("delete", "mdl", "churn", code=1).stderr
    user.run("delete", "oe", "shop")
    user.run("delete", "mdl", "churn")
    assert user.run("delete", "mv", "churn-1").stdout == "modelversions/churn-1 deleted\n"


def test_delete_says_what_stays_and_what_goes_along(user: User, api: Api) -> None:
    """The versions of a Dataset stay, and the jobs of a PipelineRun do not."""
    content = {"uri": "s3://lake/d/", "digest": f"sha256:{'a' * 64}"}
    for kind, name, spec in (
        ("Dataset", "churn", {}),
        ("DatasetVersion", "churn-1", {"dataset": "churn", "version": "1", **content}),
        ("PipelineRun", "nightly", {"pipeline": "churn"}),
    ):
        api.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    api.status("plr", "nightly", {"steps": [{"name": "clean", "state": "Succeeded", "child": "nightly-clean"}]})

    assert "Its versions stay: churn-1. Delete one by" in user.run("delete", "dset", "churn").stderr
    assert "such as TrainingJobs, are deleted with it" in user.run("delete", "plr", "nightly").stderr


def test_apply_refuses_a_schedule_whose_runs_would_be_refused(user: User, api: Api) -> None:
    """Every fault of the template is named, and nothing is created."""
    spec = {"cron": "0 3 * * *", "template": {"kind": "TrainingJob", "spec": {"comand": ["a"], "nodes": "2"}}}
    manifest = {"apiVersion": API_VERSION, "kind": "Schedule", "metadata": {"name": "nightly"}, "spec": spec}
    (user.folder / "nightly.yaml").write_text(yaml.safe_dump(manifest))

    refused = user.run("apply", "nightly.yaml", code=1).stderr
    assert "spec.template.spec.comand: unknown field; did you mean command?" in refused
    assert "spec.template.spec.nodes: must be a whole number" in refused
    assert json.loads(user.run("get", "schedules", "-o", "json").stdout)["items"] == []


def test_apply_and_plan_warn_of_parameters_that_a_pipeline_refuses(user: User, api: Api) -> None:
    """The Pipeline of the cluster may change before the Schedule's next run, so the Schedule is applied."""
    step = {"name": "a", "trainingJob": {"command": ["true"]}}
    spec: Manifest = {"parameters": {"rate": {"type": "number"}}, "steps": [step]}
    api.apply({"apiVersion": API_VERSION, "kind": "Pipeline", "metadata": {"name": "churn"}, "spec": spec})
    template = {"kind": "PipelineRun", "spec": {"pipeline": "churn", "parameters": {"rate": "fast"}}}
    nightly = {"cron": "0 3 * * *", "template": template}
    manifest = {"apiVersion": API_VERSION, "kind": "Schedule", "metadata": {"name": "nightly"}, "spec": nightly}
    (user.folder / "nightly.yaml").write_text(yaml.safe_dump(manifest))

    warning = "Warning: Schedule nightly: spec.template.spec.parameters.rate: expected number, got string"
    assert warning in user.run("plan", "nightly.yaml").stdout
    applied = user.run("apply", "nightly.yaml")
    assert warning in applied.stderr
    assert "schedules/nightly applied" in applied.stdout


def test_an_empty_list_says_why(user: User, api: Api) -> None:
    """A namespace that does not exist has no objects either."""
    words = user.run("get", "tj", "-n", "absent")
    assert words.stderr == (
        "No tj in namespace absent. Namespace absent does not exist. Choose another with -n or ULTRAMARINE_NAMESPACE.\n"
    )
    assert "is not one of Ultramarine's" in user.run("get", "tj").stderr


def test_delete_goes_on_after_a_missing_name(user: User, api: Api) -> None:
    """The others are deleted, the missing one is named, and the exit code is 1."""
    api.apply(job("a"), job("c"))
    done = user.run("delete", "tj", "a", "b", "c", code=1)
    assert done.stdout == "trainingjobs/a deleted\ntrainingjobs/c deleted\n"
    assert "/b does not exist" in done.stderr


def test_the_logs_of_two_attempts_are_told_apart(user: User, api: Api, store: Storage) -> None:
    """A line beside the output names the pod that wrote what follows."""
    base = "s3://lake/trainingjobs/churn/logs/"
    for pod in ("churn-0-aaaaa", "churn-0-bbbbb"):
        store.write(f"{base}{pod}/000.log", b"KeyError: 'age'\n")
    api.apply(job("churn"))
    api.status("tj", "churn", {"state": "Failed", "logs": {"uri": base}})

    done = user.run("logs", "churn")
    assert done.stdout == "KeyError: 'age'\n" * 2
    assert done.stderr == "Pod churn-0-bbbbb:\n"


def test_the_log_of_a_node(user: User, api: Api, store: Storage) -> None:
    """Only pods of the node are read, of all attempts; a number beyond the gang and another kind are refused."""
    base = "s3://lake/trainingjobs/churn/logs/"
    for pod in ("churn-0-aaaaa", "churn-1-bbbbb", "churn-1-ccccc"):
        store.write(f"{base}{pod}/000.log", f"of {pod}\n".encode())
    api.apply(job("churn", nodes=2, framework="none"), sweep("hpo"))
    api.status("tj", "churn", {"state": "Failed", "logs": {"uri": base}})

    assert user.run("logs", "churn", "--node", "1").stdout == "of churn-1-bbbbb\nof churn-1-ccccc\n"
    assert (
        "TrainingJob churn has no node 2. Its nodes: 0 to 1." in user.run("logs", "churn", "--node", "2", code=1).stderr
    )
    assert "Sweep hpo has no nodes. Use --node with" in user.run("logs", "sw/hpo", "--node", "0", code=1).stderr


def test_the_log_of_a_trial_with_a_job_of_its_own(user: User, api: Api, store: Storage) -> None:
    """It is the log of that job; a job of the same name that the sweep does not own is none."""
    base = "s3://lake/trainingjobs/hpo-trial-3/logs/"
    store.write(f"{base}hpo-trial-3-0-aaaaa/000.log", b"loss=0.5\n")
    api.apply(sweep("hpo", execution="PodPerTrial"), job("hpo-trial-4"))
    owner = {"apiVersion": API_VERSION, "kind": "Sweep", "name": "hpo", "uid": api.get("sw", "hpo")["metadata"]["uid"]}
    trial = job("hpo-trial-3")
    trial["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    api.apply(trial)
    api.status("tj", "hpo-trial-3", {"state": "Succeeded", "logs": {"uri": base}})

    assert user.run("logs", "hpo", "--trial", "3").stdout == "loss=0.5\n"
    assert "Sweep hpo has no trial 4. No trial has begun." in user.run("logs", "hpo", "--trial", "4", code=1).stderr
    refused = user.run("logs", "tj/hpo-trial-3", "--trial", "0", code=1).stderr
    assert "TrainingJob hpo-trial-3 has no trials. Use --trial with a Sweep." in refused


def test_an_environment_that_does_not_exist_starts_no_job(user: User, api: Api, store: Storage) -> None:
    """The nearest name is offered, or those that exist are listed."""
    api.apply(
        {
            "apiVersion": API_VERSION,
            "kind": "Environment",
            "metadata": {"name": "tables"},
            "spec": {"python": {"requirements": ["pandas==3.0.0"]}},
        }
    )
    (user.folder / "train.py").write_text("")
    near = user.run("submit", "train.py", "--env", "table", code=1).stderr
    far = user.run("submit", "train.py", "--env", "nosuchenv", code=1).stderr
    assert "no Environment is named table. Did you mean tables?" in near
    assert "no Environment is named nosuchenv. Environments: tables;" in far
    assert json.loads(user.run("get", "tj", "-o", "json").stdout)["items"] == []


@pytest.mark.parametrize(
    ("format", "is_served", "words"),
    [
        ("sklearn", False, "deploy the version to see it"),
        ("sklearn", True, "not shown: deployment blue of endpoint shop has no ready pod"),
        ("custom", False, "known to the scoring script alone"),
    ],
)
def test_a_missing_signature_is_explained(user: User, api: Api, format: str, is_served: bool, words: str) -> None:
    """To deploy a version is no advice for one that is served, or that has none."""
    content = {"uri": "s3://lake/m/", "digest": f"sha256:{'a' * 64}", "format": {"name": format}}
    spec = {"model": "churn", "version": "1", **content}
    api.apply({"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": "churn-1"}, "spec": spec})
    if is_served:
        serving = {"deployments": [{"name": "blue", "model": "churn@1"}]}
        api.apply({"apiVersion": API_VERSION, "kind": "OnlineEndpoint", "metadata": {"name": "shop"}, "spec": serving})
        api.status("oe", "shop", {"deployments": [{"name": "blue", "modelVersion": "churn-1", "state": "Pending"}]})

    assert words in user.run("models", "show", "churn@1").stdout


def test_a_schedule_is_held_and_continued(user: User, api: Api) -> None:
    """`schedule suspend` and `schedule resume` set spec.suspend."""
    spec = {"cron": "0 3 * * *", "template": {"kind": "TrainingJob", "spec": {"command": ["a"]}}}
    api.apply({"apiVersion": API_VERSION, "kind": "Schedule", "metadata": {"name": "nightly"}, "spec": spec})

    assert "ultramarine schedule resume nightly" in user.run("schedule", "suspend", "nightly").stderr
    assert api.get("schedules", "nightly")["spec"]["suspend"] is True
    assert user.run("schedule", "resume", "nightly").stderr == "nightly continues.\n"
    assert api.get("schedules", "nightly")["spec"]["suspend"] is False
    assert "does not exist" in user.run("schedule", "suspend", "absent", code=1).stderr


def test_a_fault_of_a_pipelines_file_has_its_line(user: User, api: Api) -> None:
    """`run start FILE` names file, line and field before anything is made, as `apply` does."""
    steps = [{"name": "clean", "trainingJob": {"command": ["true"]}}]
    spec = {"parameters": {"rows": {"type": "int"}}, "steps": steps}
    manifest = {"apiVersion": API_VERSION, "kind": "Pipeline", "metadata": {"name": "night"}, "spec": spec}
    (user.folder / "night.yaml").write_text(yaml.safe_dump(manifest))

    told = user.run("run", "start", "night.yaml", code=1).stderr
    assert "night.yaml:8" in told
    assert "spec.parameters.rows.type: must be one of string, integer" in told
    assert user.run("get", "pipelines", "-o", "name").stdout == ""
