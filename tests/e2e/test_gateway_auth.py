"""Authentication by the gateway on the real cluster: keys, tokens and TLS, and no way around it."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from conftest import NAMESPACE, Manifest, Platform, condition
from credentials import Authority, Connection, key_set, token
from cryptography.hazmat.primitives.asymmetric import rsa
from load import Background
from manifests import endpoint, infer, model_version, onnx_model
from ultramarine import Client
from ultramarine.serving.route import EndpointError
from ultramarine_cluster import cluster
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY, POD_SECURITY

MODEL = "asked"
INFER = f"/v2/models/{MODEL}/infer"
STRANGER = "asking-stranger"


@pytest.fixture(scope="module")
def asked(platform: Platform) -> Platform:
    """A model version that each test serves behind an endpoint of its own."""
    content = onnx_model(1)
    platform.apply(model_version(MODEL, 1, platform.put(f"{MODEL}.onnx", content), content))
    return platform


@contextmanager
def served(platform: Platform, name: str, **spec: Any) -> Iterator[None]:
    """An endpoint of that model, until the end of the block."""
    platform.apply(endpoint(name, f"{MODEL}@1", **spec))
    try:
        yield
    finally:
        platform.delete("oe", name)


def routes(platform: Platform, name: str, reason: str, seconds: float = 240) -> Manifest:
    """Wait for that word of the condition RoutesReady, looking after the endpoint at once, and return the status."""
    end = time.monotonic() + seconds
    while condition(status := platform.status("oe", name), "RoutesReady").get("reason") != reason:
        assert time.monotonic() < end, status
        # At rest the gateway is asked every two minutes; a change of the object has it asked now.
        platform.kubectl("annotate", "oe", name, f"looked={time.time_ns()}", "--overwrite")
        time.sleep(2)
    return status


def until(what: str, holds: Callable[[], bool], seconds: float = 180) -> None:
    """Wait until that holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


class Asking(Background):
    """Requests one after another, with headers that may be exchanged meanwhile."""

    def __init__(self, url: str, key: str) -> None:
        self.key, self.answered = key, 0
        self.failures: list[str] = []
        self._url = url
        super().__init__(self._run)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self.stopping.is_set():
                try:
                    answer = client.post(INFER, json=infer([[0.0]]), headers={"api-key": self.key})
                    if answer.status_code == 200:
                        self.answered += 1
                    else:
                        self.failures.append(f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                time.sleep(0.02)


def put_keys(platform: Platform, name: str, **keys: str) -> None:
    """Exchange some of the keys in a Secret."""
    platform.kubectl("patch", "secret", name, "--type=merge", "-p", json.dumps({"stringData": keys}))


@pytest.mark.attack("client/no-key")
@pytest.mark.slow
def test_keys_are_asked_for_rotated_and_not_lost_with_their_secret(asked):
    """A wrong key is refused at the gateway, both keys rotate under requests, a deleted Secret locks nobody out.

    The pod checks the keys too, and knows a new one only when the kubelet has brought it: that can take over a minute.
    """
    name = "asked-keys"
    with served(asked, name):
        asked.ready(name, f"{MODEL}-1")
        old = asked.secret(f"{name}-keys")
        with asked.client(name, "wrong") as client:
            url = str(client.base_url)

            def code(key: str) -> int:
                return client.post(INFER, json=infer([[0.0]]), headers={"Authorization": f"Bearer {key}"}).status_code

            refused = client.post(INFER, json=infer([[0.0]]))
            assert (refused.status_code, code(old["primary"]), code(old["secondary"])) == (401, 200, 200)
            assert "a key of this endpoint is needed" in refused.json()["error"], "these are the gateway's words"
            found = asked.get("pod", "", "-l", f"ultramarine.dev/name={name}")
            (pod,) = (each for each in found if not each["metadata"].get("deletionTimestamp"))
            own = httpx.get(f"http://{pod['status']['podIP']}:8080/v2", timeout=30)
            assert own.status_code == 401
            assert "a valid key is needed" in own.json()["error"], "the pod asks for a key too"

            with Asking(url, old["primary"]) as load:
                put_keys(asked, f"{name}-keys", secondary="second-" + "n" * 32)
                until("the new secondary key opens", lambda: code("second-" + "n" * 32) == 200)
                load.key = "second-" + "n" * 32
                # What is under way still has the old one; the answer after that has the new one.
                until("the new key is in use", lambda before=load.answered: load.answered > before + 1)
                put_keys(asked, f"{name}-keys", primary="first-" + "n" * 32)
                until("the new primary key opens", lambda: code("first-" + "n" * 32) == 200)
                assert code(old["primary"]) == code(old["secondary"]) == 401

                asked.delete("secret", f"{name}-keys")
                lost = routes(asked, name, "SecretMissing")
                assert f"Secret {name}-keys not found in {NAMESPACE}" in condition(lost, "RoutesReady")["message"]
                assert condition(lost, "Ready")["status"] == "True"
                until("requests go on", lambda before=load.answered: load.answered > before + 50)
                keys = {"primary": "first-" + "n" * 32, "secondary": "second-" + "n" * 32}
                metadata = {"name": f"{name}-keys", "namespace": NAMESPACE}
                made = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}
                asked.kubectl("apply", "-f", "-", input=yaml.safe_dump(made))
                routes(asked, name, "Confirmed")
        assert load.failures == []
        print(f"{load.answered} requests while both keys were exchanged and their Secret was lost, none failed")
    asked.delete("secret", f"{name}-keys")


@pytest.mark.attack("operator/secrets")
@pytest.mark.parametrize(("words", "answer"), [("get", "yes"), ("list", "no"), ("watch", "no"), ("create", "no")])
def test_the_gateway_reads_secrets_by_name_only(platform, words, answer):
    """Of Secrets the agent has the right to get one, and no other; who may list or watch them reads them all."""
    account = f"system:serviceaccount:{NAMESPACE}:ultramarine-gateway"
    argv = [*platform.target.kubectl, "-n", NAMESPACE, "auth", "can-i", "--as", account, words, "secrets"]
    assert subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == answer


def policy_that_opens(name: str, chosen: dict[str, str]) -> Manifest:
    """A NetworkPolicy that lets everybody in, besides what others let in."""
    spec = {"podSelector": {"matchLabels": chosen}, "policyTypes": ["Ingress"], "ingress": [{}]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def stranger(asked: Platform) -> Iterator[Callable[[str], str]]:
    """A pod of the namespace that no policy holds; it asks a URL and says which code it got, or that none."""
    image = asked.settings.images.trainer
    container = {"name": "main", "image": image, "command": ["sleep", "3600"], "securityContext": CONTAINER_SECURITY}
    spec = {"securityContext": POD_SECURITY, "automountServiceAccountToken": False, "containers": [container]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": STRANGER}, "spec": spec}
    asked.delete("pod", STRANGER)
    asked.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))
    asked.kubectl("wait", "--for=condition=Ready", f"pod/{STRANGER}", "--timeout=240s")
    script = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=3).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print("nobody")
"""
    yield lambda url: asked.kubectl("exec", STRANGER, "--", "python", "-c", script, url).strip()
    asked.kubectl("delete", "pod", STRANGER, "--grace-period=1")


@pytest.mark.attack(
    "client/forged-token",
    asset="predictions, metadata",
    threat="a token that is old, forged, of another issuer or for somebody else",
    control="signature, issuer, audience (to the letter) and time are checked; a token without an end is refused, "
    "and so is one in the URL; at least one audience has to be named",
)
@pytest.mark.attack(
    "client/around-the-gateway",
    asset="predictions, metadata",
    threat="going around the gateway to pods that cannot check a token",
    control="pods want to see what a Secret says that the gateway alone sends; besides a NetworkPolicy for each such "
    "endpoint, put right when somebody edits it, before its pods and until the last of them has gone",
)
def test_tokens_open_and_there_is_no_way_around_the_gateway(asked, stranger):
    """A JWT of the issuer, in time and for the audience, opens; with tokens pods answer the gateway alone."""
    name, key = "asked-tokens", rsa.generate_private_key(65537, 2048)
    issuer = {"issuer": "https://id.example.com", "audiences": [MODEL], "jwks": key_set(key)}
    pods = f"http://{name}-blue-pods.{NAMESPACE}.svc:8080/v2"
    policy = f"networkpolicy/{name}-gateway-only"
    now = int(time.time())
    good = {"iss": "https://id.example.com", "aud": MODEL, "exp": now + 3600}
    another = rsa.generate_private_key(65537, 2048)
    with served(asked, name, authMode="token", token=issuer):
        asked.ready(name, f"{MODEL}-1")
        with Client(kubeconfig=str(cluster.up().kubeconfig), namespace=NAMESPACE) as sdk:
            assert sdk.endpoint(name, token(key, **good)).predict([[2.0]]) == [[3.0]]
            with pytest.raises(EndpointError, match=r"takes tokens of https://id\.example\.com\. Get one there"):
                sdk.endpoint(name).predict([[2.0]])
            with pytest.raises(EndpointError, match="refuses the token"):
                sdk.endpoint(name, token(key, **good | {"aud": "another"})).predict([[2.0]])
        with asked.client(name, "") as client:

            def code(made: str) -> int:
                return client.post(INFER, json=infer([[0.0]]), headers={"Authorization": f"Bearer {made}"}).status_code

            assert code(token(key, **good)) == 200
            assert code(token(key, **good | {"exp": now - 3600})) == 401
            assert code(token(key, **good | {"aud": "another"})) == 403
            assert code(token(key, **good | {"iss": "https://other.example.com"})) == 401
            assert code(token(another, **good)) == 401
            assert code("nonsense") == 401
            assert client.get("/v2/health/ready", headers={"Authorization": ""}).status_code == 200

            # A network learns of a new pod a moment after it has started.
            until("the gateway answers a stranger", lambda: stranger(f"http://{name}.{NAMESPACE}.svc/v2") == "401")
            until("a pod answers nobody but the gateway", lambda: stranger(pods) == "nobody")
            asked.kubectl("patch", policy, "--type=merge", "-p", '{"spec":{"ingress":[{}]}}')
            ours = "--for=jsonpath={.spec.ingress[0].ports[0].port}=8080"
            asked.kubectl("wait", ours, policy, "--timeout=120s")
            until("it is closed again", lambda: stranger(pods) == "nobody")
            opened = policy_that_opens("asked-opened", {"ultramarine.dev/name": name})
            asked.kubectl("apply", "-f", "-", input=yaml.safe_dump(opened))
            until("where another policy opens them, pods want proof", lambda: stranger(pods) == "401")
            asked.kubectl("delete", "networkpolicy", "asked-opened")
            assert code(token(key, **good)) == 200

        asked.apply(endpoint(name, f"{MODEL}@1"))  # authMode: key
        asked.kubectl("wait", "--for=delete", policy, "--timeout=300s")
        asked.ready(name, f"{MODEL}-1")
        until("pods that ask for keys may be asked", lambda: stranger(pods) == "401")
        with asked.client(name) as client:
            assert client.post(INFER, json=infer([[0.0]])).status_code == 200


@pytest.mark.attack(
    "client/reading-along",
    asset="requests and answers",
    threat="read or changed between client and gateway",
    control="TLS from 1.2 on, with a certificate that is renewed without a pause",
)
@pytest.mark.slow
def test_an_endpoint_answers_by_https_and_its_certificate_is_renewed(asked):
    """Its Secret is waited for by name; clients verify what it shows; a renewed one ends no connection."""
    name = "asked-tls"
    host = f"{name}.{NAMESPACE}.svc"
    authority = Authority(host)
    asked.delete("secret", "asked-certificate")
    with served(asked, name, tls={"secretName": "asked-certificate"}):
        missing = routes(asked, name, "SecretMissing")
        assert f"Secret asked-certificate not found in {NAMESPACE}" in condition(missing, "RoutesReady")["message"]
        first, serial = authority.secret("asked-certificate")
        asked.kubectl("apply", "-f", "-", input=yaml.safe_dump(first))
        asked.ready(name, f"{MODEL}-1")
        assert asked.status("oe", name)["url"] == f"https://{host}"
        key = asked.secret(f"{name}-keys")["primary"]
        with asked.target.reach(NAMESPACE, name, 443) as url:
            address = str(urlsplit(url).hostname)

            def fresh(context: ssl.SSLContext) -> Connection:
                made = Connection(address, host, context)
                made.connect()
                return made

            with pytest.raises(ssl.SSLCertVerificationError):
                fresh(ssl.create_default_context())
            kept = fresh(authority.trusting)
            assert (kept.ask(INFER, key), kept.serial) == (200, serial)
            # On one of its own: who is refused before the body was read is disconnected.
            assert fresh(authority.trusting).ask(INFER, "wrong") == 401

            second, renewed = authority.secret("asked-certificate")
            asked.kubectl("apply", "-f", "-", input=yaml.safe_dump(second))
            until("the new certificate is shown", lambda: fresh(authority.trusting).serial == renewed)
            assert fresh(authority.trusting).ask(INFER, key) == 200
            assert (kept.ask(INFER, key), kept.serial) == (200, serial), "the old connection goes on"
            kept.close()
    asked.delete("secret", "asked-certificate")
