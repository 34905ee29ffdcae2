"""Models from elsewhere, as docs/importing.md says: a folder in the bucket becomes a version by a job that copies."""

from __future__ import annotations

from manifests import endpoint, infer, onnx_model


def test_a_folder_in_the_bucket_is_copied_and_served(platform):
    """cp does: the trainer lists the files, and the version has the digest of that list."""
    uri = platform.put("folder/model.onnx", onnx_model(5)).removesuffix("model.onnx")
    platform.put("folder/notes/readme.txt", b"read me")
    spec = {
        "inputs": {"model": {"uri": uri}},
        "command": ["cp", "-r", "$(inputs.model)/.", "$(outputs.model)"],
        "outputs": {"model": {"registerAs": "copied"}},
        "backoffLimit": 0,
    }
    platform.apply({"kind": "TrainingJob", "metadata": {"name": "import-folder"}, "spec": spec})
    status = platform.ended("import-folder")
    assert status["state"] == "Succeeded", status.get("failure")
    version = platform.get("mv", status["modelVersion"])["spec"]
    assert version["format"] == {"name": "onnx"}
    assert version["digest"] == status["outputs"]["model"]["digest"]

    platform.apply(endpoint("copied", f"copied@{version['version']}", authMode="none"))
    platform.ready("copied", status["modelVersion"])
    with platform.client("copied", key="none") as client:
        answer = client.post("/v2/models/copied/infer", json=infer([[1.0]]))
    assert answer.json()["outputs"][0]["data"] == [6.0]
    platform.delete("oe", "copied")
