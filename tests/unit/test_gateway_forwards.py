"""Ports that the gateway forwards: how the chart names them, and what Envoy's configuration is without them."""

from __future__ import annotations

import pytest
from ultramarine_gateway.config.bootstrap import bootstrap
from ultramarine_gateway.config.forwards import Forward


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("7070=http://ultramarine-storage.ultramarine.svc:7070", "ultramarine-storage.ultramarine.svc", 7070),
        ("7070=https://s3.example.com", "s3.example.com", 443),
        ("7070=http://s3.example.com/", "s3.example.com", 80),
        ("7070=https://[2001:db8::1]:9000", "2001:db8::1", 9000),
        ("7070=https://mlflow.example.com/ml?a=b", "mlflow.example.com", 443),
    ],
)
def test_a_server_is_named_by_its_url(text: str, host: str, port: int) -> None:
    """Host and port are those of the URL, or the port of its scheme."""
    assert Forward.parse(text) == Forward(7070, host, port)


@pytest.mark.parametrize("text", ["7070", "7070=", "7070=s3.example.com:443", "http=https://s3", "7070=https://:443"])
def test_anything_else_is_refused(text: str) -> None:
    """A text without a port or a URL is an error."""
    with pytest.raises(ValueError):
        Forward.parse(text)


def test_a_port_adds_a_cluster_and_a_listener_on_loopback() -> None:
    """All else in Envoy's configuration is as without forwarded ports."""
    without, with_one = bootstrap("/run"), bootstrap("/run", [Forward(7070, "s3", 443)])
    clusters, listeners = (with_one["static_resources"][name] for name in ("clusters", "listeners"))
    assert [listener["address"]["socket_address"]["address"] for listener in listeners] == ["127.0.0.1"]
    assert clusters[:-1] == without["static_resources"]["clusters"]
    assert without["static_resources"]["listeners"] == []
    assert {**with_one, "static_resources": {}} == {**without, "static_resources": {}}
