"""Model files that were made to do harm: the format is allowed, the content is not what it claims."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from ultramarine.shared.serving_records import ServingTask
from ultramarine_server.artifact import ModelFile
from ultramarine_server.errors import LoadError
from ultramarine_server.loading import load


def refusal(path: Path, format: str) -> LoadError:
    """The error that loading a file of this format must end with."""
    with pytest.raises(LoadError) as caught:
        load(ModelFile(path, format), ServingTask("m", "1", "", "", format), 1)
    return caught.value


def onnx_with_data_in(location: str) -> bytes:
    """An ONNX model that wants its weights read from another file."""
    from onnx import TensorProto, helper

    weights = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        weights.external_data.add(key=key, value=value)
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "c"], ["y"])], "g", [inputs], [outputs], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.attack(
    "model/onnx-files",
    asset="files of the pod",
    threat="an ONNX model names other files as its weights",
    control="paths and links out of the model's folder are refused",
)
@pytest.mark.parametrize("location", ["../secret", "{folder}/secret", "link", "/proc/self/environ"])
def test_an_onnx_model_reads_no_file_but_its_artifacts(tmp_path: Path, location: str) -> None:
    """Weights that lie outside of the model's folder, by path or by link, are not loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(np.float32([41, 42]).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    path = folder / "model.onnx"
    path.write_bytes(onnx_with_data_in(location.format(folder=tmp_path)))

    assert refusal(path, "onnx").reason == "ModelCorrupt"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A good .skops file."""
    path = tmp_path / "models" / "model.skops"
    path.parent.mkdir()
    skops.io.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), path)
    return path


@pytest.mark.attack("model/skops-types")
@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval")])
def test_a_skops_file_cannot_name_what_is_to_be_called(archive: Path, module: str, name: str) -> None:
    """A forged schema whose root is a function is refused by the function's name, and nothing is called."""
    with zipfile.ZipFile(archive) as made:
        members = {member: made.read(member) for member in made.namelist()}
    schema = json.loads(members["schema.json"])
    schema |= {"__module__": module, "__class__": name, "__loader__": "ObjectNode"}
    with zipfile.ZipFile(archive, "w") as forged:
        for member, content in {**members, "schema.json": json.dumps(schema).encode()}.items():
            forged.writestr(member, content)

    error = refusal(archive, "sklearn")
    assert error.reason == "CodeExecutionRefused"
    assert f"{module}.{name}" in error.message


@pytest.mark.attack(
    "model/archive-paths",
    asset="files of the pod",
    threat="paths in an archive (`../x`, `/x`)",
    control="archives are read in memory, never unpacked; a manifest's paths are checked before anything is written",
)
@pytest.mark.parametrize("member", ["../escaped", "/tmp/ultramarine-escaped", "a/../../escaped"])
def test_a_skops_file_writes_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """Members with paths that lead out of a folder are never unpacked: the archive is read in memory."""
    monkeypatch.chdir(archive.parent)
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr(member, b"escaped")
    load(ModelFile(archive, "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]
    assert not Path("/tmp/ultramarine-escaped").exists()
