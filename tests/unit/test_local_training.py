"""`ultramarine submit --local`: jobs as real processes on this machine, without a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultramarine.storage.code import code_files
from ultramarine_contract.storage import Storage
from unit.packages import index, wheel

CLI = "from ultramarine.cli.main import main; main()"
TRAIN = """
import os, pathlib, sys
data = pathlib.Path(sys.argv[1])
print(f"rows={len(data.read_text().splitlines())} rate={sys.argv[3]}")
(pathlib.Path(sys.argv[2]) / "model.skops").write_bytes(b"model")
assert os.environ["AZURE_ML_OUTPUT_model"] == sys.argv[2]
"""


class Machine:
    """A folder with a job's files, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "KUBECONFIG": "/nowhere",
        }

    def write(self, name: str, content: str) -> None:
        """Write a file of the job."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def job(self, *others: dict[str, Any], kind: str = "TrainingJob", **spec: Any) -> None:
        """Write job.yaml, with other objects behind the job."""
        whole = {"source": {"path": "."}, "command": ["python", "train.py"], **spec}
        job = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": kind, "metadata": {"name": "churn"}, "spec": whole}
        self.write("job.yaml", yaml.safe_dump_all([job, *others]))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `ultramarine submit --local` with these words."""
        return subprocess.Popen(
            [sys.executable, "-c", CLI, "submit", "--local", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A suite in the background ignores the signal, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run it to its end; return exit code, stdout and stderr."""
        with self.start(*(words or ("job.yaml",))) as process:
            stdout, stderr = process.communicate(timeout=240)
        return process.returncode, stdout, stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty folder."""
    return Machine(tmp_path)


def test_a_job_runs_with_local_data_and_leaves_its_outputs(machine):
    """References are filled in, the format is found, metrics are read; the code runs where it lies."""
    machine.write("src/train.py", TRAIN)
    machine.write("data/churn.csv", "a,b\n1,2\n")
    machine.job(
        source={"path": "src"},
        command=["python", "train.py", "$(inputs.churn)/churn.csv", "$(outputs.model)", "$(params.rate)"],
        parameters={"rate": 0.5},
        inputs={"churn": {"path": "data/churn.csv"}},
        outputs={"model": {"registerAs": "churn"}},
    )
    code, stdout, stderr = machine.run()

    assert code == 0, stderr
    assert "rows=2 rate=0.5" in stdout
    assert (machine.folder / "outputs/model/model.skops").read_bytes() == b"model"
    assert "model, 5 B, sklearn" in stderr.replace(str(machine.folder), "")
    assert "Succeeded (exit code 0" in stderr
    assert ["rate", "0.5"] in [line.split() for line in stderr.splitlines()]


def test_a_script_needs_no_manifest(machine):
    """Data and arguments come from the command line."""
    machine.write("train.py", "import os, sys; print(sys.argv[1:], open(os.environ['AZURE_ML_INPUT_churn']).read())")
    machine.write("churn.csv", "1,2")
    code, stdout, stderr = machine.run("train.py", "--data", "churn=churn.csv", "--", "--lr", "0.1")

    assert code == 0, stderr
    assert stdout.strip() == "['--lr', '0.1'] 1,2"


def test_a_missing_file_has_a_hint_at_inputs(machine):
    """A script that opens the name of --data does not find it beside itself."""
    machine.write("code/train.py", 'open("churn.csv")')
    machine.write("churn.csv", "1")
    code, _, stderr = machine.run("code/train.py", "--data", "churn=churn.csv")
    assert (code, "pass $(inputs.NAME) as an argument of the command" in stderr) == (1, True), stderr


def test_outputs_are_no_code_of_the_next_job(machine):
    """A project without an ignore file of its own uploads only its script after a local run."""
    machine.write("train.py", "import sys; open(sys.argv[1] + '/model.skops', 'w').write('model')")
    code, _, stderr = machine.run("train.py", "--register", "churn", "--", "$(outputs.model)")
    assert code == 0, stderr
    assert (machine.folder / "outputs/model/model.skops").is_file()
    assert not [name for name in code_files(machine.folder) if name.startswith("outputs/")]


def test_the_exit_code_is_the_commands(machine):
    """The line of its error is the reason."""
    machine.write("train.py", "import sys; print('KeyError: churn', file=sys.stderr); sys.exit(7)")
    machine.job()
    code, _, stderr = machine.run()

    assert code == 7
    assert "Failed: command exited with code 7: KeyError: churn (exit code 7" in stderr


def test_an_output_without_a_model_fails(machine):
    """As on the cluster, by the trainer's own verdict."""
    machine.write("train.py", "import os; open(os.environ['ULTRAMARINE_OUTPUTS_DIR'] + '/model/a.txt', 'w').write('a')")
    machine.job(outputs={"model": {"registerAs": "churn"}})
    code, _, stderr = machine.run()

    assert code == 1
    assert "output model must be a model but holds a.txt" in stderr


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("Sweep", {}, "Error: Sweep: only a TrainingJob runs on this machine. Submit it to the cluster"),
        ("TrainingJob", {"command": ["python", "$(inputs.x)"]}, "refers to $(inputs.x), but spec.inputs has no 'x'"),
        (
            "TrainingJob",
            {"inputs": {"x": {"path": "no.csv"}}},
            "no.csv does not exist. Correct the path, or give --data",
        ),
        ("TrainingJob", {"source": {"path": "no"}}, "no does not exist. Correct the path; it is relative to"),
        ("TrainingJob", {"source": {"configMap": {"name": "code"}}}, "ConfigMap code is not in the file of the job"),
        ("TrainingJob", {"environment": {"name": "tabular"}}, "Environment tabular is not in the file of the job"),
        ("TrainingJob", {"nodes": "many"}, "Error: spec.nodes: "),
        (
            "TrainingJob",
            {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]},
            "spec.env TOKEN comes from a Secret of the cluster. Set TOKEN in your shell",
        ),
        ("TrainingJob", {"command": ["no-such-program"]}, "command 'no-such-program' was not found"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(machine, kind, spec, message):
    """Nothing runs, and no trace is shown."""
    machine.job(kind=kind, **spec)
    code, stdout, stderr = machine.run()

    assert code == 1
    assert message in stderr
    assert "Traceback" not in stderr
    assert stdout == ""


def test_objects_of_the_same_file_stand_for_those_of_the_cluster(machine):
    """A ConfigMap has the code, another one a variable."""
    code = {
        "kind": "ConfigMap",
        "metadata": {"name": "code"},
        "data": {"train.py": "import os; print(os.environ['A'])"},
    }
    values = {"kind": "ConfigMap", "metadata": {"name": "values"}, "data": {"a": "from the map"}}
    variable = {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "values", "key": "a"}}}
    machine.job(code, values, source={"configMap": {"name": "code"}}, env=[variable])
    exit_code, stdout, stderr = machine.run()

    assert (exit_code, stdout) == (0, "from the map\n"), stderr


def test_an_input_may_come_from_the_bucket(machine, storage, bucket):
    """With the variables of the AWS CLI, of which the command sees none."""
    storage.write(f"s3://{bucket}/lake/churn.csv", b"1,2\n")
    machine.environment |= {"AWS_ENDPOINT_URL": storage.name}
    script = "import os, sys; print(open(sys.argv[1] + '/churn.csv').read(), 'AWS_ACCESS_KEY_ID' in os.environ)"
    machine.write("train.py", script)
    machine.job(
        command=["python", "train.py", "$(inputs.data)"], inputs={"data": {"uri": f"s3://{bucket}/lake/churn.csv"}}
    )
    code, stdout, stderr = machine.run()

    assert code == 0, stderr
    assert stdout.split() == ["1,2", "False"]


def test_ctrl_c_ends_the_command_by_sigterm(machine):
    """It may save what it has; the exit code is that of an interrupted program."""
    machine.write(
        "train.py",
        "import signal, sys, time\n"
        "def end(*_):\n    print('saved', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('runs', flush=True)\n"
        "time.sleep(60)\n",
    )
    machine.job()
    with machine.start("job.yaml") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 130, stderr
    assert stdout == "saved\n"
    assert "Failed: interrupted" in stderr


def test_packages_are_installed_once(machine):
    """From a file of requirements beside the code; packages of the Python stay visible."""
    machine.write("train.py", "import own, yaml; print(own.VERSION, own.__file__)")
    with index(wheel("own", "1.2")) as url:
        machine.write("requirements.txt", f"--index-url {url}\nown==1.2\n")
        machine.job(environment={"requirementsFile": "requirements.txt"})
        code, stdout, stderr = machine.run()
    assert code == 0, stderr
    version, path = stdout.split()
    assert version == "1.2"
    assert path.startswith(str(machine.folder / "cache/ultramarine/environments"))

    code, again, stderr = machine.run()  # the index is gone
    assert (code, again) == (0, stdout), stderr


def test_packages_that_cannot_be_installed_are_named(machine):
    """By uv's own words, and one sentence."""
    machine.write("train.py", "")
    with index() as url:
        machine.job(environment={"requirements": [f"--index-url {url}", "no-such-package==9"]})
        code, _, stderr = machine.run()

    assert code == 1
    assert "no-such-package" in stderr
    assert "Error: the environment cannot be installed, for the reason above. Correct the requirements." in stderr


def test_checkpoints_stay_for_the_next_run(machine):
    """Without the field each run begins without checkpoints."""
    machine.write(
        "train.py",
        "import os, pathlib\n"
        "file = pathlib.Path(os.environ['ULTRAMARINE_CHECKPOINTS_DIR']) / 'step'\n"
        "print(file.exists())\nfile.parent.mkdir(exist_ok=True)\nfile.write_text('1')\n",
    )
    machine.job()
    assert [machine.run()[1] for _ in range(2)] == ["False\n", "False\n"]
    machine.job(checkpoint={})
    assert [machine.run()[1] for _ in range(2)] == ["False\n", "True\n"]


def test_what_mlflow_logs_is_printed_and_becomes_an_output(machine):
    """The runs stay in outputs/mlruns, and those of an earlier run go."""
    machine.write(
        "train.py",
        "import os, pathlib, time\n"
        "root = pathlib.Path(os.environ['MLFLOW_TRACKING_URI'].removeprefix('file://')) / '0'\n"
        "(root / 'a/metrics').mkdir(parents=True)\n"
        "(root / 'a/metrics/loss').write_text('1000 0.5 1\\n')\n"
        "(root / 'models/m/artifacts').mkdir(parents=True)\n"
        "(root / 'models/m/artifacts/MLmodel').write_text('flavors: {}')\n",
    )
    machine.job(outputs={"model": {"registerAs": "churn", "fromMlflow": True}})
    for _ in range(2):
        code, _, stderr = machine.run()
        assert code == 0, stderr
        assert "mlflow: loss=0.5 step=1" in stderr
    assert (machine.folder / "outputs/model/MLmodel").is_file()
    assert (machine.folder / "outputs/mlruns/0/a/metrics/loss").is_file()


@pytest.fixture(autouse=True)
def _storage_of_the_test(storage: Storage) -> None:
    """Start the S3 server of the session first: its keys are in the environment that a Machine copies."""
