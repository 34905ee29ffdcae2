"""A language model of random weights behind an endpoint: streams, tokens for each key, and their limit."""

from __future__ import annotations

import json
import shutil
import time

import httpx
import pytest
from conftest import Platform, condition
from prometheus_client.parser import text_string_to_metric_families
from ultramarine_cluster import archives
from ultramarine_cluster.paths import REPOSITORY, State

pytestmark = pytest.mark.slow

NAME, PATH = "random-chat", "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 20, "seed": 1}
STREAM = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def chat(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """The image in the cluster, and an endpoint whose keys may use 90 tokens a minute."""
    folder = tmp_path_factory.mktemp("images") / "random-llm"
    shutil.copytree(REPOSITORY / "tests" / "images" / "llm", folder)
    shutil.copy(REPOSITORY / "examples" / "llm" / "serve.py", folder)
    image = archives.load(str(folder), State("full"))
    container = {"image": image, "ports": {"http": 8080}, "api": "openai", "readiness": {"path": "/health"}}
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
    spec = {
        "tokenLimits": {"tokensPerMinute": 90},
        "deployments": [{"name": "cpu", "container": container, "resources": resources}],
    }
    metadata = {"name": NAME}
    platform.apply(
        {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "OnlineEndpoint", "metadata": metadata, "spec": spec}
    )
    platform.wait("oe", NAME, lambda status: condition(status, "Ready").get("status") == "True", 300)
    return platform


def tokens(platform: Platform) -> dict[tuple[str, str], int]:
    """Sum the tokens in the metrics of all gateway pods, by key and direction."""
    place = {"endpoint": NAME, "deployment": "cpu"}
    summed: dict[tuple[str, str], int] = {}
    for pod in platform.get("pod", "", "-l", "app.kubernetes.io/component=gateway"):
        text = httpx.get(f"http://{pod['status']['podIP']}:9902/metrics", timeout=30).text
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            labels = sample.labels
            if sample.name == "ultramarine_gateway_tokens_total" and place.items() <= labels.items():
                key = (labels["key"], labels["direction"])
                summed[key] = summed.get(key, 0) + int(sample.value)
    return summed


def test_tokens_are_counted_for_each_key_and_limited(chat: Platform) -> None:
    """Answers count as the model reports; a key that used its tokens is refused, the other is not."""
    keys = chat.secret(f"{NAME}-keys")
    with chat.client(NAME) as client:
        usages = [client.post(PATH, json=QUESTION).json()["usage"]]
        with client.stream("POST", PATH, json=STREAM) as response:
            events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {")]
        usages.append(json.loads(events[-1])["usage"])
        assert len(events) > 2
        expected = {
            ("primary", direction): sum(usage[f"{direction}_tokens"] for usage in usages)
            for direction in ("prompt", "completion")
        }
        end = time.monotonic() + 20
        while tokens(chat) != expected:
            assert time.monotonic() < end, tokens(chat)
            time.sleep(0.5)
        refused = client.post(PATH, json=QUESTION)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
    with chat.client(NAME, keys["secondary"]) as client:
        assert client.post(PATH, json=QUESTION).status_code == 200
