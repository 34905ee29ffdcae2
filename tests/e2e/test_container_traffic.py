"""Containers of authors get traffic as models do: shares, copies, rollouts, changes, sleep, tokens and TLS."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from conftest import NAMESPACE, Manifest, Platform, condition
from credentials import Authority, Connection, key_set, token
from cryptography.hazmat.primitives.asymmetric import rsa
from load import Clients, OpenLoad
from manifests import endpoint, infer, model_version, onnx_model
from ultramarine_contract.routes import PIN_HEADER

NAME, MIXED = "boxed", "boxed-mixed"
PATH = f"/v2/models/{NAME}/infer"  # a path of the platform's server; a container takes any
PROGRAM = Path(__file__).with_name("container_server.py").read_text()
SCALING = {"minReplicas": 0, "maxReplicas": 3, "metric": "concurrency", "target": 2, "scaleDownAfterSeconds": 10}


def box(platform: Platform, name: str, version: str, mode: str = "", **container: Any) -> Manifest:
    """A deployment whose container answers with its version, in the way of its mode."""
    whole = {
        "image": platform.settings.images.trainer,
        "command": ["python", "-c", PROGRAM],
        "ports": {"http": 8000},
        "readiness": {"path": "/health", "periodSeconds": 1},
        "startupSeconds": 120,
        **container,
    }
    env = [{"name": "VERSION", "value": version}, {"name": "MODE", "value": mode}]
    return {"name": name, "container": whole, "env": env, "resources": {"requests": {"cpu": "20m"}}}


def served(platform: Platform, *deployments: Manifest, name: str = NAME, **spec: Any) -> Manifest:
    """Apply an endpoint, by default with all traffic for the first deployment, and wait until all of them are ready."""
    traffic = spec.pop("traffic", {deployments[0]["name"]: 100})
    platform.apply(endpoint(name, "", deployments=list(deployments), traffic=traffic, **spec))
    platform.settled(name, traffic)
    return platform.wait("oe", name, lambda s: {d["state"] for d in s["deployments"]} == {"Ready"})


def ask(client: httpx.Client, times: int) -> Counter[str]:
    """Ask so often, and count which version has answered."""
    counted: Counter[str] = Counter()
    for _ in range(times):
        answer = client.post(PATH, json=infer([[0.0]]))
        assert answer.status_code == 200, answer.text
        counted[answer.json()["model_version"]] += 1
    return counted


@pytest.fixture(scope="module")
def boxes(platform: Platform) -> Iterator[Platform]:
    """Two containers behind one endpoint, and a container beside the platform's server behind another."""
    content = onnx_model(1)
    platform.apply(model_version(NAME, 1, platform.put(f"{NAME}.onnx", content), content))
    blue, green = box(platform, "blue", "first"), box(platform, "green", "second")
    shares = {"blue": 80, "green": 20}
    server = {"name": "green", "model": f"{NAME}@1"}
    platform.apply(endpoint(NAME, "", deployments=[blue, green], traffic=shares))
    platform.apply(endpoint(MIXED, "", deployments=[blue, server], traffic=shares))
    yield platform
    platform.delete("oe", NAME, MIXED)


@pytest.mark.parametrize(("name", "other"), [(NAME, "second"), (MIXED, "1")])
def test_a_container_shares_requests_by_percent(boxes: Platform, name: str, other: str) -> None:
    """Of 500 requests at 80 to 20, 64 to 136 go to another container, or to the platform's server."""
    boxes.settled(name, {"blue": 80, "green": 20})
    with boxes.client(name) as client:
        counted = ask(client, 500)
    assert counted.keys() == {"first", other}
    assert 64 <= counted[other] <= 136, counted


def test_a_container_gets_copies_and_answers_none(boxes: Platform) -> None:
    """With all requests mirrored to green, each answer is blue's, and green counts as many more requests."""
    served(boxes, box(boxes, "blue", "first"), box(boxes, "green", "second"), mirrorTraffic={"green": 100})

    def count(client: httpx.Client) -> int:
        return int(client.get("/count", headers={PIN_HEADER: "green"}).text)

    with boxes.client(NAME) as client:
        before = count(client)
        assert ask(client, 50) == {"first": 50}
        end = time.monotonic() + 60
        while count(client) < before + 50 and time.monotonic() < end:
            time.sleep(0.2)
        assert count(client) == before + 50


@pytest.mark.parametrize(
    ("mode", "gates", "failed", "code"),
    [
        ("", {"errorRateIncrease": 0.05}, "", ""),
        ("fails", {"errorRateIncrease": 0.05}, "errorRateIncrease", "500"),
        ("refuses", {"errorRateIncrease": 0.05}, "clientErrorRateIncrease", "400"),
        pytest.param("slow", {"p99Ratio": 3}, "p99Ratio", "", marks=pytest.mark.slow),
    ],
)
def test_gates_decide_on_a_container(
    boxes: Platform, mode: str, gates: dict[str, float], failed: str, code: str
) -> None:
    """A good candidate takes over; one that answers 500, 400 or late is rolled back by its gate, after few requests."""
    blue, green = box(boxes, "blue", "first"), box(boxes, "green", f"candidate-{mode}", mode)
    served(boxes, blue, green)
    rollout = {"candidate": "green", "steps": [50, 100], "stepSeconds": 5, "gates": gates}
    with OpenLoad(boxes, NAME) as load:
        boxes.apply(endpoint(NAME, "", deployments=[blue, green], traffic={"blue": 100}, rollout=rollout))
        phases = ("Promoted", "RolledBack", "Paused")
        status = boxes.wait("oe", NAME, lambda s: (s.get("rollout") or {}).get("phase") in phases, 300)
        traffic = {"blue" if failed else "green": 100}
        status = boxes.wait("oe", NAME, lambda s: s.get("traffic") == traffic)
    assert status["rollout"]["phase"] == ("RolledBack" if failed else "Promoted"), status["rollout"]
    assert all(failure.startswith(f"{code} ") for failure in load.failures), load.failures
    assert len(load.failures) <= 200
    assert bool(load.failures) == bool(code)
    if failed:
        evidence = next(gate for gate in status["rollout"]["evidence"] if gate["gate"] == failed)
        assert evidence["verdict"] == "Failed"
        assert evidence["message"] in condition(status, "RolloutHealthy")["message"]
        print(f"rolled back after {len(load.failures)} failed requests: {evidence['message']}")


def test_a_container_is_replaced_without_a_failed_request(boxes: Platform) -> None:
    """Variables, arguments and image change under load: each new pod answers before the old one goes."""
    served(boxes, box(boxes, "blue", "first"))
    boxes.emptied(NAME)
    server = boxes.settings.images.server
    with OpenLoad(boxes, NAME) as load:
        served(boxes, box(boxes, "blue", "variable"))
        served(boxes, box(boxes, "blue", "argument", args=["--ignored"]))
        served(boxes, box(boxes, "blue", "image", image=server))
        boxes.emptied(NAME)
    assert load.failures == []
    assert list(dict.fromkeys(load.versions)) == ["first", "variable", "argument", "image"]
    (pod,) = boxes.pods_of("OnlineEndpoint", NAME)
    assert pod["spec"]["containers"][0]["image"] == server
    print(f"{len(load.versions)} requests during three replacements, none failed")


def test_a_stream_ends_whole_though_its_container_is_replaced(boxes: Platform) -> None:
    """Events go on for longer than the ten seconds before SIGTERM; meanwhile the new container answers all else."""
    served(boxes, box(boxes, "blue", "before"))
    with boxes.client(NAME) as client, client.stream("GET", "/events?40") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        served(boxes, box(boxes, "blue", "after"))
        assert ask(client, 20) == {"after": 20}
        (*_, last) = (line for line in lines if line)
    assert last == "data: 39"


def test_a_container_that_fails_takes_nothing_from_the_one_before(boxes: Platform) -> None:
    """A change whose container ends at once leaves the former one answering, and Ready tells of it."""
    served(boxes, box(boxes, "blue", "good"))
    with OpenLoad(boxes, NAME) as load:
        boxes.apply(endpoint(NAME, "", deployments=[box(boxes, "blue", "bad", "exits")], traffic={"blue": 100}))
        words = "exited with code 1: no weights in /mnt/model"
        boxes.wait("oe", NAME, lambda s: words in condition(s, "Ready").get("message", ""))
    assert load.failures == []
    assert set(load.versions) == {"good"}


@pytest.mark.slow
def test_containers_come_and_go_with_the_requests_in_flight(boxes: Platform) -> None:
    """Seven clients get three pods; without requests no pod is left, and the next request waits for one."""
    name = "boxed-elastic"
    served(boxes, box(boxes, "blue", "first", "slow") | {"autoscale": SCALING}, name=name)
    with Clients(boxes, name, 7) as clients:
        boxes.wait("oe", name, lambda status: status.get("replicas") == "3/3", 300)
    assert clients.failures == []
    status = boxes.wait("oe", name, lambda status: status.get("replicas") == "0/0", 300)
    assert condition(status, "Ready")["status"] == "True"
    labels = f"ultramarine.dev/name={name},ultramarine.dev/deployment=blue"
    boxes.kubectl("wait", "--for=delete", "pod", "-l", labels, "--timeout=240s")
    with boxes.client(name) as client:
        began = time.monotonic()
        assert ask(client, 1) == {"first": 1}
    print(f"{clients.answers} requests by seven clients; one to no pod took {time.monotonic() - began:.1f} s")
    boxes.delete("oe", name)


@pytest.mark.slow
def test_tokens_open_a_container(boxes: Platform) -> None:
    """A JWT of the issuer, in time and for the audience, opens; the container gets it, and no other one."""
    name, key, now = "boxed-token", rsa.generate_private_key(65537, 2048), int(time.time())
    issuer = {"issuer": "https://id.example.com", "audiences": [NAME], "jwks": key_set(key)}
    good = {"iss": "https://id.example.com", "aud": NAME, "exp": now + 3600}
    served(boxes, box(boxes, "blue", "first"), name=name, authMode="token", token=issuer)
    with boxes.client(name, token(key, **good)) as client:
        assert ask(client, 5) == {"first": 5}
        assert "authorization" in client.get("/any/path").text.split()
        for made, code in (
            (token(key, **good | {"exp": now - 3600}), 401),
            (token(key, **good | {"aud": "another"}), 403),
            (token(rsa.generate_private_key(65537, 2048), **good), 401),
            ("nonsense", 401),
        ):
            headers = {"Authorization": f"Bearer {made}"}
            assert client.post(PATH, json=infer([[0.0]]), headers=headers).status_code == code
        assert client.get("/health", headers={"Authorization": ""}).status_code == 401
        assert client.get("/count").text == "5"
    boxes.delete("oe", name)


@pytest.mark.slow
def test_a_container_answers_by_https(boxes: Platform) -> None:
    """Clients verify the gateway's certificate; a key opens, and a wrong one does not."""
    name = "boxed-tls"
    host, secret = f"{name}.{NAMESPACE}.svc", f"{name}-certificate"
    authority = Authority(host)
    certificate, serial = authority.secret(secret)
    boxes.kubectl("apply", "-f", "-", input=yaml.safe_dump(certificate))
    served(boxes, box(boxes, "blue", "first"), name=name, tls={"secretName": secret})
    assert boxes.status("oe", name)["url"] == f"https://{host}"
    with boxes.target.reach(NAMESPACE, name, 443) as url:
        address = str(urlsplit(url).hostname)
        connection = Connection(address, host, authority.trusting)
        assert (connection.ask(PATH, boxes.secret(f"{name}-keys")["primary"]), connection.serial) == (200, serial)
        assert Connection(address, host, authority.trusting).ask(PATH, "wrong") == 401
        connection.close()
    boxes.delete("oe", name)
    boxes.delete("secret", secret)
