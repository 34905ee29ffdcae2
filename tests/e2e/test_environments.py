"""Environments with a name: requirements in a ConfigMap, the lock, the own image, and the end with the archive."""

from __future__ import annotations

import time

import pytest
from conftest import Manifest, Platform, condition
from manifests import endpoint, model_version, onnx_model, training_job
from person import Person, data_scientist
from ultramarine_cluster import images
from ultramarine_cluster.console import run
from ultramarine_cluster.paths import State
from ultramarine_contract.storage import parse_uri

OWN_IMAGE = "team/server:1"
SCORE = (
    "import json, inflection\n\n\ndef init(): pass\n\n\ndef run(data): return inflection.pluralize(json.loads(data))\n"
)
REQUIREMENTS = "# small, of Python alone\ninflection==0.5.1\n"

# Saves a model by MLflow itself. Its answers need a package that no image has.
PYFUNC = """
import sys
import mlflow.pyfunc
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema


class Plurals(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import inflection
        self.pluralize = inflection.pluralize

    def predict(self, context, model_input, params=None):
        return [self.pluralize(word) for word in model_input["word"]]


mlflow.pyfunc.save_model(
    sys.argv[1],
    python_model=Plurals(),
    signature=ModelSignature(Schema([ColSpec("string", "word")]), Schema([ColSpec("string")])),
    pip_requirements=["mlflow-skinny==" + mlflow.__version__, "inflection==0.5.1"],
)
"""

# LightGBM's wheel has a native library, which needs libgomp of the image. The images have another release.
NATIVE = ["lightgbm==4.5.0"]
LOADED = """
def check():
    import lightgbm
    assert lightgbm.__version__ == "4.5.0", lightgbm.__version__
    libraries = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
    own = [path for path in libraries if path.endswith("lib_lightgbm.so")]
    assert own and own[0].startswith("/mnt/environment/"), own
    assert any("libgomp" in path and path.startswith("/usr/lib/") for path in libraries), libraries
    return lightgbm
"""
GROW = """
import sys, time
began = time.monotonic()
from loaded import check
lightgbm = check()
print(f"import_seconds={time.monotonic() - began}")
import numpy
x = numpy.arange(20.0)[:, None]
data = lightgbm.Dataset(x, (x[:, 0] > 9).astype(float))
settings = {"objective": "binary", "min_data_in_leaf": 1, "verbose": -1, "num_threads": 1}
lightgbm.train(settings, data, 5).save_model(sys.argv[1] + "/trees.lgb")
"""
ANSWER = """
import json, os
from loaded import check


def init():
    global booster
    booster = check().Booster(model_file=os.environ["AZUREML_MODEL_DIR"] + "/trees.lgb")


def run(data):
    return booster.predict(json.loads(data)["data"]).round().tolist()
"""


def environment(name: str, python: Manifest, **spec: object) -> Manifest:
    """An Environment."""
    return {"kind": "Environment", "metadata": {"name": name}, "spec": {"python": python, **spec}}


def stored(platform: Platform, uri: str) -> list[str]:
    """Return the names of what lies in the bucket below a URI."""
    place = parse_uri(uri)
    with platform.target.bucket(platform.namespace) as storage:
        listed = storage.list_objects_v2(Bucket=place.bucket, Prefix=place.key)
    return [entry["Key"].removeprefix(place.key) for entry in listed.get("Contents", [])]


@pytest.fixture(scope="module")
def built(platform: Platform) -> dict[str, Manifest]:
    """Statuses of Environments with a good and a bad version of Python, and on an own image."""
    server = f"docker.io/{platform.settings.images.server}"
    run(*images.store(State("full")), "images", "tag", "--force", server, f"docker.io/{OWN_IMAGE}")
    config_map = {"metadata": {"name": "packages"}, "data": {"requirements.txt": REQUIREMENTS}}
    platform.apply({"apiVersion": "v1", "kind": "ConfigMap", **config_map})
    selected = {"requirementsFrom": {"configMap": {"name": "packages", "key": "requirements.txt"}}}
    platform.apply(
        environment("kept", selected, ttlSecondsAfterUnused=3600),
        environment("older", {"version": "3.8", **selected}),
        environment("imaged", {"requirements": ["inflection==0.5.1"]}, image=OWN_IMAGE),
    )

    def is_over(status: Manifest) -> bool:
        return status.get("state") in ("Ready", "Failed")

    return {name: platform.wait("environment", name, is_over, 600) for name in ("kept", "older", "imaged")}


def test_an_environment_is_stored_with_its_lock(platform, built):
    """The status has the archive, and the lock has the hash of each package."""
    status = built["kept"]
    assert condition(status, "Ready")["status"] == "True", status
    folder = status["uri"].rpartition("/")[0] + "/"
    assert {"environment.tar.zst", "requirements.txt"} <= set(stored(platform, folder))
    place = parse_uri(status["lock"]["uri"])
    with platform.target.bucket(platform.namespace) as storage:
        lock = storage.get_object(Bucket=place.bucket, Key=place.key)["Body"].read().decode()
    assert "inflection==0.5.1" in lock
    assert "--hash=sha256:" in lock


def test_a_version_that_the_image_lacks_is_refused(platform, built, tmp_path):
    """The condition names both versions, and the command shows the log of the build."""
    assert condition(built["older"], "Failed")["reason"] == "PythonMismatch"
    person = Person(tmp_path, data_scientist(platform, "packer", tmp_path))
    assert "3.8" in person.run("logs", "environment/older").stdout


def test_an_own_image_is_built_by_the_platforms_tools_and_serves(platform, built):
    """The server image lacks the builder, which is copied into the pod. The endpoint's server runs in that image."""
    assert condition(built["imaged"], "Ready")["status"] == "True", built["imaged"]
    content = onnx_model(1)
    own = {"scoring": {"source": {"inline": {"score.py": SCORE}}}, "environment": {"name": "imaged"}}
    platform.apply(
        {"kind": "Model", "metadata": {"name": "imaged"}, "spec": {}},
        model_version("imaged", 1, platform.put("imaged.onnx", content), content),
        endpoint("imaged", "imaged@1", deployments=[{"name": "blue", "model": "imaged@1", **own}]),
    )
    platform.ready("imaged", "imaged-1")
    [pod] = platform.get("pod", "", "-l", "ultramarine.dev/name=imaged,ultramarine.dev/kind=OnlineEndpoint")
    [server] = pod["spec"]["containers"]
    assert server["image"] == OWN_IMAGE
    with platform.client("imaged") as client:
        assert client.post("/score", json="octopus").json() == "octopi"


def test_an_mlflow_model_is_served_in_the_environment_that_it_names(platform):
    """Its requirements.txt becomes a shared Environment, and its signature the metadata."""
    registered = {"registerAs": "plurals", "format": "mlflow", "allowCodeExecution": True}
    platform.apply(training_job("plurals", PYFUNC, outputs={"model": registered}), endpoint("plurals", "plurals@1"))
    platform.ready("plurals", "plurals-1", 600)
    [served] = platform.status("oe", "plurals")["deployments"]
    environment = platform.get("environment", served["environment"])
    lines = platform.status("mv", "plurals-1")["requirements"]
    assert environment["spec"]["python"]["requirements"] == lines
    assert lines[-1] == "inflection==0.5.1"
    with platform.client("plurals") as client:
        assert client.post("/score", json=[{"word": "octopus"}]).json()["predictions"] == ["octopi"]
        metadata = client.get("/v2/models/plurals").json()
    assert metadata["inputs"] == [{"name": "word", "datatype": "BYTES", "shape": [-1]}]
    assert not any(event["reason"] == "DependencyMissing" for event in platform.events("plurals"))


@pytest.mark.slow
def test_a_wheel_with_native_libraries_is_loaded_in_jobs_and_servers(platform):
    """A package's own library comes from the environment, and that of the system from the image."""
    needed = {"environment": {"requirements": NATIVE}}
    files = {"train.py": GROW, "score.py": ANSWER, "loaded.py": LOADED}
    scoring = {"source": {"inline": {name: files[name] for name in ("score.py", "loaded.py")}}}
    deployments = [{"name": "blue", "model": "native@1", "scoring": scoring, **needed}]
    job = training_job("native", model="native", source={"inline": files}, **needed)
    platform.apply(job, endpoint("native", "native@1", deployments=deployments))
    status = platform.ended("native", 600)
    assert status["state"] == "Succeeded", status
    platform.ready("native", "native-1", 300)
    with platform.client("native") as client:
        assert client.post("/score", json={"data": [[0.0], [19.0]]}).json() == [0.0, 1.0]
    built = platform.status("environment", status["provenance"]["environment"])
    print("native:", {name: built[name] for name in ("size", "unpackedBytes", "buildSeconds")}, status["metrics"])


@pytest.mark.slow
def test_an_unused_environment_goes_with_its_archive(platform, built):
    """A job that runs holds it; after its end the archive and the object are deleted."""
    place = built["kept"]["uri"].rpartition("/kept/")[0] + "/kept/"
    platform.apply(training_job("keeper", environment={"name": "kept"}))
    platform.wait("tj", "keeper", lambda status: status.get("state"))
    platform.kubectl("patch", "environment", "kept", "--type=merge", "-p", '{"spec": {"ttlSecondsAfterUnused": 0}}')
    assert platform.ended("keeper")["state"] == "Succeeded"
    platform.delete("tj", "keeper")
    end = time.monotonic() + 240
    while any(item["metadata"]["name"] == "kept" for item in platform.get("environment")):
        assert time.monotonic() < end, platform.status("environment", "kept")
        time.sleep(0.5)

    assert stored(platform, place) == []
