"""podTemplate on the cluster: pods of jobs, trials and deployments get what it names, and a missing part is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Manifest, Platform, condition
from manifests import endpoint, model_version, onnx_model, sweep, training_job

pytestmark = pytest.mark.slow

NAME, MISSING = "templated", "untemplated"
TEMPLATE = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": NAME, "operator": "Exists"}],
    "priorityClassName": NAME,
    "serviceAccountName": NAME,
    "sharedMemory": "96Mi",
    "volumes": [{"claimName": NAME, "mountPath": "/data"}],
}
CHECK = f"""
import base64, json, os, pathlib
token = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/token").read_text()
claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
assert claims["sub"].endswith(":{NAME}"), claims
memory = os.statvfs("/dev/shm")
assert memory.f_blocks * memory.f_frsize == 96 << 20, memory
pathlib.Path("/data", os.uname().nodename).write_text("written")
"""
ABSENT: dict[str, Manifest] = {
    "account": {"serviceAccountName": MISSING},
    "class": {"priorityClassName": MISSING},
    "claim": {"volumes": [{"claimName": MISSING, "mountPath": "/data"}]},
}
WORDS = {
    "account": f'serviceaccount "{MISSING}" not found; create it, or correct PLACE.serviceAccountName',
    "class": f"no PriorityClass with name {MISSING} was found; create it, or correct PLACE.priorityClassName",
    "claim": "create the claim, see why it is unbound (kubectl describe pvc), or correct PLACE.volumes",
}


def container(platform: Platform, template: Manifest) -> Manifest:
    """A deployment of a container with this template."""
    program = Path(__file__).with_name("container_server.py").read_text()
    server = {"image": platform.settings.images.trainer, "command": ["python", "-c", program], "ports": {"http": 8000}}
    return {"name": "blue", "container": server, "podTemplate": template}


def searching(name: str, template: Manifest, **spec: str) -> Manifest:
    """A sweep of one trial with this template, which runs the check."""
    command = ["python", "-c", f"{CHECK if template == TEMPLATE else ''}\nprint('loss=$(params.x)')"]
    limits = {"maxTrials": 1, "parallelTrials": 1}
    return sweep(name, command, limits=limits, template={"podTemplate": template}, **spec)


def others(name: str) -> list[Manifest]:
    """Objects that the template names."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 100},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim},
    ]


@pytest.fixture(scope="module")
def templated(platform: Platform) -> Iterator[Platform]:
    """Objects whose template names what exists, and others whose template names what does not."""
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(others(NAME)))
    for other in others(MISSING):
        platform.delete(other["kind"], MISSING)
    content = onnx_model(1)
    model = {"name": "green", "model": f"{NAME}@1", "podTemplate": TEMPLATE}
    both = {"deployments": [container(platform, TEMPLATE), model], "traffic": {"blue": 50, "green": 50}}
    platform.apply(
        model_version(NAME, 1, platform.put(f"{NAME}.onnx", content), content),
        endpoint(NAME, "", **both),
        training_job(NAME, CHECK, outputs={}, command=["python", "train.py"], podTemplate=TEMPLATE),
        searching(NAME, TEMPLATE),
        searching(f"{NAME}-pods", TEMPLATE, execution="PodPerTrial"),
    )
    for part, template in ABSENT.items():
        platform.apply(
            endpoint(f"{MISSING}-{part}", "", deployments=[container(platform, template)]),
            training_job(f"{MISSING}-{part}", "pass", outputs={}, command=["python", "train.py"], podTemplate=template),
            searching(f"{MISSING}-{part}", template),
        )
    yield platform
    names = [f"{MISSING}-{part}" for part in ABSENT]
    for kind in ("oe", "tj", "sw"):
        platform.delete(kind, NAME, *names)
    platform.delete("sw", f"{NAME}-pods")
    for name in (NAME, MISSING):
        for other in others(name):
            platform.delete(other["kind"], name)


def test_servers_have_what_their_template_names(templated: Platform) -> None:
    """A container and the platform's server have the token, the memory, the claim, the class and the node."""
    templated.settled(NAME, {"blue": 50, "green": 50})
    pods = templated.pods_of("OnlineEndpoint", NAME)
    assert len(pods) == 2
    for pod in pods:
        [server] = (container["name"] for container in pod["spec"]["containers"])
        templated.kubectl("exec", pod["metadata"]["name"], "-c", server, "--", "python", "-c", CHECK)
        assert (pod["spec"]["priority"], pod["spec"]["nodeSelector"]) == (100, TEMPLATE["nodeSelector"])
        assert TEMPLATE["tolerations"][0] in pod["spec"]["tolerations"]


def test_jobs_and_trials_have_what_their_template_names(templated: Platform) -> None:
    """A job's command and those of trials, of workers and of own pods, have the token, the memory and the claim."""
    for kind, name in (("tj", NAME), ("sw", NAME), ("sw", f"{NAME}-pods")):
        status = templated.wait(kind, name, lambda status: status.get("state") in ("Succeeded", "Failed"), 300)
        assert status["state"] == "Succeeded", status


@pytest.mark.parametrize("part", ABSENT)
@pytest.mark.parametrize(
    ("kind", "type", "place"),
    [
        ("oe", "Ready", "deployments[].podTemplate"),
        ("tj", "Running", "spec.podTemplate"),
        ("sw", "Running", "spec.trialTemplate.spec.podTemplate"),
    ],
)
def test_a_missing_part_is_named(templated: Platform, kind: str, type: str, place: str, part: str) -> None:
    """The condition names the object that is missing, the field, and the remedy."""
    words = WORDS[part].replace("PLACE", place)
    name = f"{MISSING}-{part}"
    status = templated.wait(kind, name, lambda status: words in condition(status, type).get("message", ""))
    print(condition(status, type)["message"])


def test_pods_start_when_the_missing_part_exists(templated: Platform) -> None:
    """An account, a class and a claim that are created late start the pods by themselves."""
    templated.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(others(MISSING)))
    for part in ABSENT:
        name = f"{MISSING}-{part}"
        templated.wait("oe", name, lambda status: condition(status, "Ready").get("status") == "True", 420)
        assert templated.ended(name, 420)["state"] == "Succeeded"
