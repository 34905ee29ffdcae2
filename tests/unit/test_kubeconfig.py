"""Configuration of access to a cluster, read as kubectl reads it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultramarine.kube.config import NoAccess, load
from ultramarine_cluster import pki


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    """An authority that signs users' certificates."""
    (tmp_path / "pki").mkdir()
    return pki.Authority(tmp_path / "pki", "ca")


def config(server: str, **body: Any) -> dict[str, Any]:
    """A kubeconfig of one context, whose cluster and user have these fields."""
    cluster, user = body.pop("cluster", {}), body.pop("user", {})
    return {
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user}],
        "current-context": "x",
    } | body


def write(file: Path, content: dict[str, Any]) -> Path:
    """Write a kubeconfig."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_first_of_several_files_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of both are there; a file that does not exist is passed over."""
    first = config("https://first", contexts=[{"name": "a", "context": {"cluster": "c", "user": "u"}}])
    first["current-context"] = "a"
    second = config("https://second", contexts=[{"name": "b", "context": {"cluster": "d", "namespace": "team"}}])
    second["clusters"].append({"name": "d", "cluster": {"server": "https://other"}})
    files = [write(tmp_path / "1", first), tmp_path / "absent", write(tmp_path / "2", second)]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))

    assert (load().context, load().server) == ("a", "https://first")
    assert (load("b").server, load("b").namespace) == ("https://other", "team")


def test_paths_are_relative_to_their_file(tmp_path: Path, authority: pki.Authority) -> None:
    """Authority, certificate, key and token may lie beside the kubeconfig."""
    folder = tmp_path / "home/.kube"
    pair = authority.issue("ada", pki.Leaf("ada"))
    cluster = {"certificate-authority": "certs/ca.crt", "tls-server-name": "api.internal", "proxy-url": "http://p:1"}
    user = {"client-certificate": "certs/ada.crt", "client-key": "certs/ada.key", "tokenFile": "certs/token"}
    file = write(folder / "config", config("https://host:6443/", cluster=cluster, user=user))
    (folder / "certs").mkdir()
    for name, source in (("ca.crt", authority.pair.cert), ("ada.crt", pair.cert), ("ada.key", pair.key)):
        (folder / "certs" / name).write_bytes(source.read_bytes())
    (folder / "certs/token").write_text("secret\n")

    access = load(kubeconfig=str(file))

    assert (access.server, access.server_name, access.proxy) == ("https://host:6443", "api.internal", "http://p:1")
    assert access.token() == "secret"
    assert access.ssl().get_ca_certs()
    (folder / "certs/token").write_text("renewed\n")
    assert access.token() == "renewed"


def test_a_plugin_may_answer_with_a_certificate(tmp_path: Path, authority: pki.Authority) -> None:
    """Clouds' plugins give a token, others a certificate; a wrong one of either would be noticed here."""
    pair = authority.issue("ada", pki.Leaf("ada"))
    certificate, key = pair.cert.read_text(), pair.key.read_text()
    status = {"clientCertificateData": certificate, "clientKeyData": key}
    (tmp_path / "answer.json").write_text(json.dumps({"kind": "ExecCredential", "status": status}))
    plugin = {"command": "cat", "args": [str(tmp_path / "answer.json")]}
    data = base64.b64encode(authority.pair.cert.read_bytes()).decode()
    cluster = {"certificate-authority-data": data}
    file = write(tmp_path / "config", config("https://host", cluster=cluster, user={"exec": plugin}))
    access = load(kubeconfig=str(file))

    access.ssl()

    assert access.user["client-certificate-data"] == certificate
    assert access.token() == ""


def test_a_missing_file_is_refused_by_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy names --kubeconfig if it was given, and otherwise the variable."""
    monkeypatch.setenv("KUBECONFIG", "/nope")
    with pytest.raises(NoAccess, match=r"/nope cannot be read: .* Correct KUBECONFIG\."):
        load()
    with pytest.raises(NoAccess, match=r"/no cannot be read: .* Correct --kubeconfig\."):
        load(kubeconfig="/no")
