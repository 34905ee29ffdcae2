"""Which artifacts are loaded, which are refused, and what stands around the model: keys and CPU limit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
from asking import infer
from joblib.compressor import LZ4_NOT_INSTALLED_ERROR
from sklearn.linear_model import LogisticRegression
from ultramarine_contract.common import GATEWAY_HEADER, ArtifactManifest, FileEntry
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server import releases
from ultramarine_server.authentication import LOOK_SECONDS, KeyRing
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile, find_model
from ultramarine_server.formats.loading import load
from ultramarine_server.machine import cpu_limit
from ultramarine_server.usercode.failing import failed

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


def ask(request: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the model's answer to a request document."""
    answer: dict[str, Any] = json.loads(infer(model, "m", "1", json.dumps(request).encode()))
    return answer


def matrix(**changes: Any) -> dict[str, Any]:
    """Return an input of two rows, with `changes`."""
    return {"name": "input", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]} | changes


# Artifact and loading


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def task_for(folder: Path, files: dict[str, bytes], **changes: Any) -> ServingTask:
    """Write an artifact and return the task that describes it."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = ArtifactManifest(tuple(FileEntry(name, len(c), digest_of(c)) for name, c in files.items()), "sklearn")
    (folder / "manifest.json").write_bytes(manifest.to_json())
    given = {"model": "m", "version": "1", "uri": "s3://b/m/", "digest": manifest.digest, "format": "sklearn"}
    return ServingTask(**(given | changes))


def test_the_model_file_is_found_by_its_format(tmp_path: Path) -> None:
    """Other files beside the model do not matter."""
    task = task_for(tmp_path, {"model.skops": b"1", "card.md": b"2"}, format="auto")

    assert find_model(tmp_path, task) == ModelFile(tmp_path / "model.skops", "sklearn")


def test_a_single_object_without_suffix_is_what_was_registered(tmp_path: Path) -> None:
    """The format of the ModelVersion counts where the name says nothing."""
    (tmp_path / "model").write_bytes(b"1")
    task = ServingTask("m", "1", "s3://b/model", "sha256:" + digest_of(b"1"), "onnx")

    assert find_model(tmp_path, task) == ModelFile(tmp_path / "model", "onnx")


@pytest.mark.attack("author/exchange")
@pytest.mark.parametrize(
    ("files", "changes", "reason"),
    [
        ({"model.skops": b"1"}, {"digest": "sha256:00"}, "DigestMismatch"),
        ({"model.skops": b"1"}, {"uri": "s3://b/model.skops", "digest": "sha256:00"}, "DigestMismatch"),
        ({"model.skops": b"1"}, {"uri": "s3://b/absent.skops"}, "ModelMissing"),
        ({"model.skops": b"1"}, {"format": "tensorrt"}, "FormatUnknown"),
        ({"model.onnx": b"1"}, {}, "FormatUnknown"),
        ({"a.skops": b"1", "b.skops": b"1"}, {}, "FormatUnknown"),
        ({"readme.md": b"1"}, {"format": "auto"}, "FormatUnknown"),
    ],
)
def test_a_wrong_artifact_is_refused(
    tmp_path: Path, files: dict[str, bytes], changes: dict[str, Any], reason: str
) -> None:
    """Other content, no file, no known format: each has its own reason."""
    with pytest.raises(LoadError) as caught:
        find_model(tmp_path, task_for(tmp_path, files, **changes))

    assert caught.value.reason == reason


@pytest.mark.attack("model/exchanged-content")
def test_content_that_changed_on_disk_is_found(tmp_path: Path) -> None:
    """Files are checked where they are loaded, not only where they were fetched."""
    task = task_for(tmp_path, {"model.skops": b"1"})
    (tmp_path / "model.skops").write_bytes(b"2")

    with pytest.raises(LoadError, match=digest_of(b"2")):
        find_model(tmp_path, task)


class Custom(LogisticRegression):
    """A type that skops does not know."""


@pytest.mark.attack("model/pickles")
@pytest.mark.attack(
    "model/skops-types",
    asset="the serving pod",
    threat="a `.skops` with types of its own, or a forged one that names a function",
    control="unknown types are refused by their names, and nothing is called",
)
@pytest.mark.parametrize("suffix", ["pkl", "joblib", "skops"])
def test_code_runs_only_where_it_is_allowed(tmp_path: Path, suffix: str) -> None:
    """Pickle, joblib and unknown skops types are refused with the remedy, and load when their owner allows it."""
    estimator = Custom().fit(X, [0, 0, 1, 1])
    path = tmp_path / f"model.{suffix}"
    if suffix == "skops":
        skops.io.dump(estimator, path)
    else:
        path.write_bytes(pickle.dumps(estimator))
    format = {"pkl": "pickle", "joblib": "joblib", "skops": "sklearn"}[suffix]
    task = ServingTask("m", "1", "", "", format)

    with pytest.raises(LoadError, match="allowCodeExecution") as caught:
        load(ModelFile(path, format), task, 1)

    assert caught.value.reason == "CodeExecutionRefused"
    assert suffix != "skops" or "Custom" in caught.value.message
    allowed = ServingTask("m", "1", "", "", format, allow_code_execution=True)
    assert ask({"inputs": [matrix()]}, load(ModelFile(path, format), allowed, 1))["outputs"]


def test_code_of_the_training_script_has_its_own_remedy(tmp_path: Path) -> None:
    """A pickle refers to __main__, which is another program in the server, whatever is allowed."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"c__main__\nScaler\n.")

    with pytest.raises(LoadError, match="make the output a python model") as caught:
        load(ModelFile(path, "pickle"), ServingTask("m", "1", "", "", "pickle", allow_code_execution=True), 1)
    assert caught.value.reason == "ModelUnsupported", "an environment could not help"


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("format", ["pickle", "joblib"])
def test_a_file_of_joblib_may_have_the_suffix_of_a_pickle(tmp_path: Path, format: str, compress: int) -> None:
    """Azure's name model.pkl, written by joblib.dump, with arrays outside the pickle or compressed."""
    (tmp_path / "written").mkdir()
    path = tmp_path / "written" / "model.pkl"
    joblib.dump(LogisticRegression().fit(X, [0, 0, 1, 1]), path, compress=compress)
    task = task_for(tmp_path, {"model.pkl": path.read_bytes()}, format=format, allow_code_execution=True)

    assert ask({"inputs": [matrix()]}, load(find_model(tmp_path, task), task, 1))["outputs"]


@pytest.mark.parametrize("format", ["sklearn", "pickle", "joblib"])
def test_a_trusted_model_of_another_release_says_which_it_was(tmp_path: Path, format: str) -> None:
    """A class that the installed release lacks: both releases, and the package for the environment."""
    path = tmp_path / "model"
    estimator, here = LogisticRegression().fit(X, [0, 0, 1, 1]), sklearn.__version__
    if format == "sklearn":
        skops.io.dump(estimator, tmp_path / "written")
        with ZipFile(tmp_path / "written") as written, ZipFile(path, "w") as changed:
            for name in written.namelist():
                changed.writestr(name, _of_another_release(written.read(name)))
    else:
        path.write_bytes(_of_another_release(pickle.dumps(estimator)))

    with pytest.raises(LoadError) as caught:
        load(ModelFile(path, format), ServingTask("m", "1", "", "", format, allow_code_execution=True), 1)

    assert caught.value.reason == "DependencyMissing"
    assert f"model was written by scikit-learn 0.0.2 and does not fit {here}, which is here (" in caught.value.message
    assert "; add scikit-learn==0.0.2 to environment.requirements of the deployment" in caught.value.message


@pytest.mark.parametrize("compress", ["zlib", "gzip", "bz2", "xz", "lzma", "lz4"])
def test_a_compressed_model_of_another_release_says_which_it_was(tmp_path: Path, compress: str) -> None:
    """A file that joblib compresses is unpacked for the message, also if a block ends within the release."""
    if compress == "lz4":
        pytest.importorskip("lz4")
    path = tmp_path / "model.joblib"
    for filling in (0, 2**20 - 500, 3 * 2**20):
        joblib.dump(("x" * filling, AnotherRelease()), path, compress=(compress, 1))

        with pytest.raises(LoadError) as caught:
            load(ModelFile(path, "joblib"), ServingTask("m", "1", "", "", "joblib", allow_code_execution=True), 1)

        assert caught.value.reason == "DependencyMissing"
        assert "model.joblib was written by scikit-learn 0.0.2 and does not fit" in caught.value.message
    path.write_bytes(path.read_bytes()[:40])  # cut
    with pytest.raises(LoadError, match="not a readable joblib model"):
        load(ModelFile(path, "joblib"), ServingTask("m", "1", "", "", "joblib", allow_code_execution=True), 1)


def test_a_release_is_found_wherever_a_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size give the whole version."""
    path = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression().fit(X, [0, 0, 1, 1]), path, compress=3)
    monkeypatch.setattr(releases, "_installed", lambda: "0.0.2")
    for size in range(1, 120):
        monkeypatch.setattr(releases, "_BLOCK", size)
        assert releases.other_releases(path) == [sklearn.__version__]


class AnotherRelease:
    """A model of a module that the installed release lacks."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (import_module, ("sklearn.absent",), {"_sklearn_version": "0.0.2"})


def test_lz4_is_named_if_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """joblib needs a package for it, which the environment can have."""

    def without_lz4(*_: object) -> None:
        raise ValueError(LZ4_NOT_INSTALLED_ERROR)

    path = tmp_path / "model.joblib"
    path.write_bytes(b"\x04\x22M\x18")
    monkeypatch.setattr(joblib, "load", without_lz4)
    with pytest.raises(LoadError, match="add lz4 to environment") as caught:
        load(ModelFile(path, "joblib"), ServingTask("m", "1", "", "", "joblib", allow_code_execution=True), 1)

    assert caught.value.reason == "DependencyMissing"


def test_a_script_that_unpickles_another_release_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script is right, so the model's release is the cause."""
    (tmp_path / "model.pkl").write_bytes(_of_another_release(pickle.dumps(LogisticRegression().fit(X, [0, 0, 1, 1]))))
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    with pytest.raises(AttributeError) as caught:
        pickle.loads((tmp_path / "model.pkl").read_bytes())

    failure = failed(caught.value, "init() of score.py", tmp_path / "code")

    assert failure.reason == "DependencyMissing"
    assert "The model was written by scikit-learn 0.0.2" in str(failure)
    assert str(failure).endswith("add scikit-learn==0.0.2 to environment.requirements of the deployment.")
    assert "Correct the script" in str(failed(AttributeError("no x"), "init() of score.py", tmp_path / "code"))


def _of_another_release(content: bytes) -> bytes:
    """Replace class and release in a file, with the same lengths."""
    return content.replace(b"LogisticRegression", b"LogisticRegressioX").replace(sklearn.__version__.encode(), b"0.0.2")


@pytest.mark.attack(
    "model/damaged-file",
    asset="the server",
    threat="a damaged file makes it crash without a word",
    control="each fault has its reason, in the endpoint's status; a forged file of XGBoost or LightGBM can still "
    "end the process",
)
@pytest.mark.parametrize("format", ["sklearn", "onnx", "pickle", "joblib"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_damaged_file_is_said_to_be_that(tmp_path: Path, format: str, content: bytes) -> None:
    """Whatever the parser stumbles over, the verdict is ModelCorrupt with the file's name."""
    (tmp_path / "model").write_bytes(content)

    with pytest.raises(LoadError, match="model is not a readable") as caught:
        load(ModelFile(tmp_path / "model", format), ServingTask("m", "1", "", "", format, allow_code_execution=True), 1)

    assert caught.value.reason == "ModelCorrupt"


def test_what_is_no_estimator_is_refused(tmp_path: Path) -> None:
    """A file may be fine and still hold nothing that predicts."""
    skops.io.dump({"a": 1}, tmp_path / "model.skops")

    with pytest.raises(LoadError, match="holds a dict, which has no predict"):
        load(ModelFile(tmp_path / "model.skops", "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)


# Keys and CPUs


def test_keys_are_followed_when_the_secret_is_swapped(tmp_path: Path) -> None:
    """The kubelet's atomic swap of `..data` takes effect with the next look, and the old key is dead."""
    now = 100.0
    for version, key in (("v1", "old"), ("v2", "new")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "primary").write_text(key + "\n")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "primary").symlink_to("..data/primary")
    keys = KeyRing(tmp_path, clock=lambda: now)
    assert keys.opens({"api-key": "old"})

    (tmp_path / "..next").symlink_to("v2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    now += LOOK_SECONDS

    assert not keys.opens({"api-key": "old"})
    assert keys.opens({"api-key": "new"})


@pytest.mark.attack(
    "client/timing",
    asset="keys",
    threat="found byte by byte by time",
    control="digests are compared in constant time, all of them; time itself is not measured",
)
@pytest.mark.parametrize(
    ("headers", "opens"),
    [
        ({"authorization": "Bearer one"}, True),
        ({"authorization": "bearer  two"}, True),
        ({"api-key": "two"}, True),
        ({"api-key": "two", "authorization": "Bearer wrong"}, True),
        ({"authorization": "Basic one"}, False),
        ({"authorization": "one"}, False),
        ({"authorization": "Bearer "}, False),
        ({"api-key": ""}, False),
        ({"api-key": "onetwo"}, False),
        ({}, False),
    ],
)
def test_both_keys_open_by_either_header(tmp_path: Path, headers: dict[str, str], opens: bool) -> None:
    """Primary and secondary are equal; nothing, or something else, does not open."""
    (tmp_path / "primary").write_text("one")
    (tmp_path / "secondary").write_text("two\n")

    assert KeyRing(tmp_path).opens(headers) is opens


@pytest.mark.attack("client/around-the-gateway")
@pytest.mark.parametrize(
    ("headers", "opens"),
    [
        ({GATEWAY_HEADER: "one two"}, True),
        ({GATEWAY_HEADER: "new two"}, True),
        ({GATEWAY_HEADER: "one"}, True),
        ({GATEWAY_HEADER: "a guess one"}, False),
        ({GATEWAY_HEADER: ""}, False),
        ({GATEWAY_HEADER: "onetwo"}, False),
        ({"api-key": "one", "authorization": "Bearer two"}, False),
    ],
)
def test_a_gateway_proves_itself_by_its_own_header(tmp_path: Path, headers: dict[str, str], opens: bool) -> None:
    """One of the two that it shows is enough, so that each can be exchanged; a third is one guess too many."""
    (tmp_path / "primary").write_text("one")
    (tmp_path / "secondary").write_text("two\n")

    assert KeyRing(tmp_path, "gateway").opens(headers) is opens


@pytest.mark.attack(
    "client/empty-key",
    asset="keys",
    threat="an empty or missing key file opens to everybody",
    control="an empty key is none, and a server without keys does not start",
)
def test_an_empty_key_file_is_no_key(tmp_path: Path) -> None:
    """A Secret with an empty value does not leave the door open."""
    (tmp_path / "primary").write_text("\n")

    assert len(KeyRing(tmp_path)) == 0


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, len(os.sched_getaffinity(0))),
        ({"cpu/cpu.cfs_quota_us": "10000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, len(os.sched_getaffinity(0))),
        ({}, len(os.sched_getaffinity(0))),
    ],
)
def test_the_cpu_limit_is_that_of_the_container(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    """Both versions of control groups are understood; without a limit all CPUs count."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert cpu_limit(tmp_path) == limit
