"""The storage keys that a training command could find: they open what its job names, and no more."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from ultramarine_contract import common as contract
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.errors import StorageError
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import CheckpointTask, TrainingContext, TrainingTask
from ultramarine_trainer.attempt.keys import ACCESS, SECRET, narrowed
from unit.conftest import serving_store

LAKE = "s3://ultramarine"
KEY = "the-key-of-the-namespace"
TASK = TrainingTask(
    inputs={
        "table": f"{LAKE}/team/tables/a.csv",
        "images": f"{LAKE}/team/images/",
        "lost": f"{LAKE}/team/lost.csv",
        "folder": f"{LAKE}/team/tables",
    },
    streams={"log": f"{LAKE}/shared/log.jsonl"},
    output_prefix=f"{LAKE}/team/jobs/mine/",
    source=SourceTask(uri=f"{LAKE}/team/code.tar"),
    checkpoint=CheckpointTask(resume_from=f"{LAKE}/team/jobs/before/checkpoints/9/"),
    environment=EnvironmentArchive(f"{LAKE}/team/environments/own/1/environment.tar.zst", "sha256:0"),
)
FILES = (
    *(
        "team/tables/a.csv",
        "team/tables/a.csv.secret",
        "team/images/1.png",
        "team/code.tar",
        "team/jobs/mine/result.json",
    ),
    *("team/jobs/before/checkpoints/9/state", "team/jobs/before/log", "team/other", "shared/log.jsonl", "shared/other"),
    *("team-b/secret", "team/jobs/mine-too/result.json"),
    *("team/environments/own/1/environment.tar.zst", "team/environments/other/1/environment.tar.zst"),
)
OPEN = {*FILES[:1], *FILES[2:6], "shared/log.jsonl", FILES[-2]}


def environment(task: TrainingTask = TASK, *, scoped: bool = True) -> dict[str, str]:
    """Return the environment of a training pod at its start."""
    context = TrainingContext(job="team/mine", scoped_keys=scoped).to_json()
    return {
        ACCESS: "namespace-team",
        SECRET: KEY,
        contract.ENV_TASK: task.to_json(),
        contract.ENV_CONTEXT: context,
    }


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded storage with two namespaces' files."""
    folder = tmp_path_factory.mktemp("data")
    accounts = folder.with_name(f"{folder.name}-accounts")
    accounts.mkdir()
    (accounts / "namespace-team").write_text(KEY)
    for name in FILES:
        path = folder / "ultramarine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with serving_store(folder) as store:
        yield store.endpoint


def client(endpoint: str, keys: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Return a client with the keys of an environment."""
    assert keys is not None
    for name in (ACCESS, SECRET):
        monkeypatch.setenv(name, keys[name])
    return Storage(endpoint, attempts=1)


def opened(storage: Storage) -> set[str]:
    """The files that can be read."""
    names = set()
    for name in FILES:
        with suppress(StorageError):
            assert storage.read(f"{LAKE}/{name}").decode() == name
            names.add(name)
    return names


@pytest.mark.attack(
    "training/other-jobs",
    asset="other jobs' data",
    threat="the command finds the trainer's keys, and reads or overwrites what its namespace has stored",
    control="with the embedded storage the trainer exchanges the namespace's keys for ones of its task, and "
    "starts again without the former",
)
def test_the_keys_open_what_the_task_names(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs can be read and listed, outputs written and deleted; other files of the namespace cannot."""
    storage = client(endpoint, narrowed(environment()), monkeypatch)
    assert opened(storage) == OPEN
    assert storage.size(f"{LAKE}/team/images/").files == 1
    assert storage.size(TASK.inputs["table"]).files == 1
    with pytest.raises(StorageError, match="does not exist"):
        storage.size(TASK.inputs["lost"])
    with pytest.raises(StorageError, match="is a folder; end it with a slash"):
        storage.size(TASK.inputs["folder"])
    storage.write(f"{LAKE}/team/jobs/mine/deep/file", b"x")
    storage.delete(f"{LAKE}/team/jobs/mine/deep/file")
    for act in (
        lambda: storage.write(TASK.inputs["table"], b"x"),
        lambda: storage.write(f"{LAKE}/team/jobs/mine-too/result.json", b"x"),
        lambda: storage.write(f"{LAKE}/team/new", b"x"),
        lambda: storage.delete(f"{LAKE}/team/images/1.png"),
        lambda: storage.folders(f"{LAKE}/team/"),
        lambda: storage.folders(f"{LAKE}/team/jobs/"),
    ):
        with pytest.raises(StorageError, match=r"(?i)denied"):
            act()


@pytest.mark.attack("training/other-jobs")
@pytest.mark.parametrize(
    "odd", [f"{LAKE}/team/*", f"{LAKE}/team-b/secret", f"{LAKE}/", "https://example.com", f"{LAKE}/team/{'x' * 5000}"]
)
def test_an_odd_input_opens_nothing_of_others(endpoint: str, monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    """Patterns and long lists stay within the namespace's bounds, and outputs within their one folder."""
    storage = client(endpoint, narrowed(environment(replace(TASK, inputs={"odd": odd}))), monkeypatch)
    assert "team-b/secret" not in opened(storage)
    storage.write(f"{LAKE}/team/jobs/mine/file", b"x")
    with pytest.raises(StorageError, match=r"(?i)denied"):
        storage.write(f"{LAKE}/team/other", b"x")


def scoped(scope: Any, key: str = KEY, account: str = "namespace-team") -> dict[str, str]:
    """Return keys that an attacker derives from the namespace's key, or guesses."""
    text = (
        scope if isinstance(scope, str) else base64.urlsafe_b64encode(json.dumps(scope).encode()).decode().rstrip("=")
    )
    made = narrowed(environment())
    assert made is not None
    name = f"{account}~{text}"
    return {ACCESS: name, SECRET: hmac.new(key.encode(), name.encode(), hashlib.sha256).hexdigest()}


@pytest.mark.attack("training/other-jobs")
@pytest.mark.parametrize(
    "keys",
    [
        scoped({"read": ["team-b/", "", "/", "../team-b/", "team/../team-b/"], "write": ["team-b/", "", "team"]}),
        scoped({"read": ["*", "team*", "te?m-b/"], "write": ["team*/"]}),
        scoped({}),
        scoped([]),
        scoped({"read": 1}),
        scoped("no base64!"),
        scoped({"read": ["team-b/"]}, account="namespace-team-b"),
        scoped({"read": ["team-b/"]}, account="operator"),
        scoped({"read": ["team-b/"]}, account="root"),
        scoped({"read": ["team/"], "write": ["team/"]}, key="guessed"),
        {ACCESS: narrowed(environment())[ACCESS], SECRET: KEY},  # type: ignore[index]
        {ACCESS: scoped({"read": ["team/"]})[ACCESS], SECRET: scoped({"read": ["team/jobs/"]})[SECRET]},
    ],
)
def test_no_keys_can_be_derived_that_open_more(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str]
) -> None:
    """Other namespaces, unknown accounts, patterns, and a key of another scope open nothing."""
    storage = client(endpoint, keys, monkeypatch)
    for name in FILES:
        with pytest.raises(StorageError):
            storage.read(f"{LAKE}/{name}")
        with pytest.raises(StorageError):
            storage.write(f"{LAKE}/{name}", b"evil")


def test_keys_that_cannot_be_exchanged_stay_as_they_are() -> None:
    """The keys stay with an own storage, with foreign keys, and without a readable task."""
    assert narrowed(environment(scoped=False)) is None
    assert narrowed({**environment(), ACCESS: "AKIAIOSFODNN7EXAMPLE"}) is None
    assert narrowed({**environment(), contract.ENV_TASK: "nonsense"}) is None
    assert narrowed(narrowed(environment()) or {}) is None


@pytest.mark.attack("training/other-jobs")
def test_nothing_of_the_namespaces_key_is_left_in_the_process(tmp_path: Path) -> None:
    """The program starts again in the same process, with the same arguments, so /proc does not show the key."""
    script = tmp_path / "main.py"
    script.write_text(
        "import sys, ultramarine_trainer.attempt.run\n"
        "from ultramarine_trainer.__main__ import main\n"
        "def run(command, environment, **_):\n"
        "    print(command, open('/proc/self/environ').read())\n"
        "    return 7\n"
        "ultramarine_trainer.attempt.run.run = run\n"
        "sys.exit(main())\n"
    )
    given = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"], **environment()}
    done = subprocess.run([sys.executable, str(script), "train", "--a b"], env=given, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("['train', '--a b']")
    assert f"{ACCESS}=namespace-team~" in done.stdout
    assert KEY not in done.stdout
