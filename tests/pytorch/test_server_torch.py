"""PyTorch programs with torch, which no image has, so no target runs this; CONTRIBUTING.md tells how to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
NAMED = {
    "inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "INT64", "shape": [-1]},
    ],
}


class Classifier(torch.nn.Module):
    """Two outputs, as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.layer(x)
        return scores.softmax(1), scores.argmax(1)


class Named(Classifier):
    """Two inputs, and an output in a dict."""

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"total": (self.layer(x) * weights).sum(1)}


def exported(module: torch.nn.Module, path: Path, *inputs: torch.Tensor) -> ModelFile:
    batch = torch.export.Dim("batch")
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=[{0: batch} for _ in inputs])
    torch.export.save(program, path)
    return ModelFile(path, "torch")


def scripted(module: torch.nn.Module, path: Path) -> ModelFile:
    torch.jit.script(module.eval()).save(path)
    return ModelFile(path, "torch")


def loaded(file: ModelFile, signature: dict[str, Any] | None = None) -> Any:
    return load(file, ServingTask("m", "1", "", "", "torch", allow_code_execution=True, signature=signature), 1)


def test_an_exported_program_tells_what_it_takes_and_gives(tmp_path: Path) -> None:
    """Names, datatypes and open sizes come from the file, and the answers are the module's."""
    module = Classifier()

    model = loaded(exported(module, tmp_path / "model.pt2", torch.zeros(2, 4)))

    assert model.signature.to_dict() == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "output_0", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "output_1", "datatype": "INT64", "shape": [-1]},
        ],
    }
    probabilities, labels = module(torch.from_numpy(ROWS))
    got = model.predict({"x": ROWS}, ["output_0", "output_1"])
    np.testing.assert_allclose(got["output_0"], probabilities.detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(got["output_1"], labels.numpy())


@pytest.mark.parametrize("script", [False, True])
def test_a_registered_signature_names_what_comes_and_goes(tmp_path: Path, script: bool) -> None:
    """Inputs and outputs are named in their order, for an exported program and for TorchScript alike."""
    module = Classifier()
    path = tmp_path / "model.pt"
    file = scripted(module, path) if script else exported(module, path, torch.zeros(2, 4))

    model = loaded(file, NAMED)

    assert model.signature.to_dict() == NAMED
    got = model.predict({"rows": ROWS}, ["label"])["label"]
    np.testing.assert_array_equal(got, module(torch.from_numpy(ROWS))[1].numpy())


def test_a_dict_keeps_its_names_and_arguments_their_order(tmp_path: Path) -> None:
    """Inputs go by name, in whatever order they come."""
    module = Named()
    weights = ROWS[:, :3].copy()

    model = loaded(exported(module, tmp_path / "model.pt2", torch.zeros(2, 4), torch.zeros(2, 3)))

    assert [spec.name for spec in model.signature.outputs] == ["total"]
    expected = module(torch.from_numpy(ROWS), torch.from_numpy(weights))["total"].detach().numpy()
    got = model.predict({"weights": weights, "x": ROWS}, ["total"])["total"]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_torchscript_needs_a_signature(tmp_path: Path) -> None:
    """The file knows its arguments' names, which the message tells, and no datatypes."""
    with pytest.raises(LoadError, match=r"set spec\.signature with inputs for x") as caught:
        loaded(scripted(Classifier(), tmp_path / "model.pt"))

    assert caught.value.reason == "SignatureInvalid"


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 5]}]},
        {"inputs": NAMED["inputs"] * 2},
        {"inputs": [{"name": "rows", "datatype": "BYTES", "shape": [-1, 4]}]},
        {"outputs": [{"name": "p", "datatype": "INT64", "shape": [-1, 3]}]},
        {"outputs": [{"name": "p", "datatype": "FP32", "shape": [-1]}]},
        {"outputs": [*NAMED["outputs"], {"name": "more", "datatype": "FP32", "shape": [-1]}]},
    ],
)
def test_a_signature_that_is_not_the_programs_is_refused(tmp_path: Path, script: bool, changes: dict[str, Any]) -> None:
    """A signature of the ModelVersion that the program cannot keep is refused at load."""
    path = tmp_path / "model.pt"
    file = scripted(Classifier(), path) if script else exported(Classifier(), path, torch.zeros(2, 4))

    with pytest.raises(LoadError) as caught:
        loaded(file, NAMED | changes)

    assert caught.value.reason == "SignatureMismatch"


def test_values_that_a_program_cannot_take_are_a_bad_request(tmp_path: Path) -> None:
    """An index that an embedding does not have is told as the caller's fault, with torch's words."""
    file = scripted(torch.nn.Embedding(3, 2), tmp_path / "model.pt")
    model = loaded(file, {"inputs": [{"name": "word", "datatype": "INT64", "shape": [-1]}]})

    with pytest.raises(BadRequest, match="index out of range"):
        model.predict({"word": np.array([7])}, ["output"])


def test_weights_without_a_program_are_refused(tmp_path: Path) -> None:
    """A file of torch.save is never unpickled."""
    torch.save(Classifier().state_dict(), tmp_path / "model.pt")

    with pytest.raises(LoadError, match="no program") as caught:
        loaded(ModelFile(tmp_path / "model.pt", "torch"))

    assert caught.value.reason == "ModelUnsupported"
