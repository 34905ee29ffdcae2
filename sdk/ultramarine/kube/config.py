"""Access to a cluster: kubeconfig files as kubectl reads them, or the service account of a pod."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from ultramarine_contract.errors import UltramarineError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ENV_NAMESPACE = "ULTRAMARINE_NAMESPACE"
_EXEC_SECONDS = 60


class NoAccess(UltramarineError):
    """No cluster is configured, it does not answer, or it does not accept the user."""

    reason = "NoAccess"


class NoConfiguration(NoAccess):
    """No kubeconfig exists, and the process is not in a pod."""


@dataclass
class Access:
    """Address, trust and credentials of one cluster, and the namespace to work in."""

    server: str
    namespace: str = "default"
    context: str = ""
    source: str = ""
    ca: str = ""
    insecure: bool = False
    server_name: str = ""
    proxy: str = ""
    user: dict[str, Any] = field(default_factory=dict)
    _token: str = ""

    def token(self, renew: bool = False) -> str:
        """Return the bearer token, or nothing. `renew` asks again for a token that was refused."""
        if path := self.user.get("tokenFile"):
            return _text(path)
        if token := self.user.get("token"):
            return str(token)
        if self.user.get("exec") and (renew or not self._token):
            self._credential()
        return self._token

    def basic(self) -> tuple[str, str] | None:
        """Return user name and password, if the configuration has them."""
        name = self.user.get("username")
        return (str(name), str(self.user.get("password", ""))) if name else None

    def ssl(self) -> ssl.SSLContext:
        """Return the TLS settings, with the user's certificate if there is one."""
        context = ssl.create_default_context(cadata=self.ca or None)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # clusters' own authorities often lack optional extensions
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.user.get("exec"):
            self.token()
        certificate, key = self.user.get("client-certificate-data"), self.user.get("client-key-data")
        if certificate and key:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
                pair.write(f"{certificate}\n{key}\n")
                pair.flush()
                context.load_cert_chain(pair.name)
        return context

    def _credential(self) -> None:
        """Run the user's credential plugin. Raises NoAccess with the plugin's own words."""
        plugin = self.user["exec"]
        argv = [plugin["command"], *(plugin.get("args") or [])]
        version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
        info = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = os.environ | {pair["name"]: pair["value"] for pair in plugin.get("env") or []}
        env["KUBERNETES_EXEC_INFO"] = json.dumps(info)
        try:
            ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=_EXEC_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            hint = plugin.get("installHint") or f"Install {argv[0]}, or choose another context."
            raise NoAccess(f"context {self.context}: the credential plugin {argv[0]} fails: {error}. {hint}") from None
        if ended.returncode:
            words = ended.stderr.strip() or f"exit code {ended.returncode}"
            raise NoAccess(f"context {self.context}: the credential plugin {argv[0]} fails: {words}. Log in again.")
        try:
            status = json.loads(ended.stdout)["status"]
        except (ValueError, KeyError, TypeError):
            raise NoAccess(f"context {self.context}: {argv[0]} printed no credential. Log in again.") from None
        self._token = str(status.get("token", ""))
        if "clientCertificateData" in status:
            self.user["client-certificate-data"] = status["clientCertificateData"]
            self.user["client-key-data"] = status.get("clientKeyData", "")


def contexts_of(kubeconfig: str = "") -> dict[str, str]:
    """Return the namespace of each context; empty if the context names none."""
    merged = _merged(_files(kubeconfig), kubeconfig)
    return {entry["name"]: (entry.get("context") or {}).get("namespace", "") for entry in merged.get("contexts", [])}


def load(context: str = "", namespace: str = "", kubeconfig: str = "") -> Access:
    """Return the access that kubectl would use: --kubeconfig, KUBECONFIG, ~/.kube/config, then the pod's account.

    An empty namespace is that of ULTRAMARINE_NAMESPACE, or else the context's.
    Raises NoConfiguration if no configuration exists, or NoAccess if the context is not in it.
    """
    namespace = namespace or os.environ.get(ENV_NAMESPACE, "")
    files = _files(kubeconfig)
    if not files and not context and (SERVICE_ACCOUNT / "token").exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
        return _of_pod(namespace)
    if not files:
        raise NoConfiguration(
            "no kubeconfig found: KUBECONFIG is not set and ~/.kube/config does not exist. Set KUBECONFIG to the file"
            " that your administrator gave you. On the embedded cluster, run `ultramarine-cluster env`."
        )
    merged = _merged(files, kubeconfig)
    names = [entry["name"] for entry in merged.get("contexts", [])]
    chosen = context or merged.get("current-context", "")
    source = ", ".join(map(str, files))
    if not chosen:
        raise NoAccess(f"{source} has no current context. Choose one with --context: {', '.join(names) or 'none'}.")
    if chosen not in names:
        raise NoAccess(f"context {chosen!r} is not in {source}. It has: {', '.join(names) or 'none'}.")
    pair = _entry(merged, "context", chosen, source)
    cluster = _entry(merged, "cluster", pair.get("cluster", ""), source)
    user = dict(_entry(merged, "user", pair["user"], source)) if pair.get("user") else {}
    if not cluster.get("server"):
        raise NoAccess(f"cluster {pair.get('cluster')!r} in {source} has no server. Add its address.")
    return Access(
        server=str(cluster["server"]).rstrip("/"),
        namespace=namespace or pair.get("namespace") or "default",
        context=chosen,
        source=source,
        ca=str(cluster.get("certificate-authority-data") or ""),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=str(cluster.get("tls-server-name") or ""),
        proxy=str(cluster.get("proxy-url") or ""),
        user=user,
    )


def _of_pod(namespace: str) -> Access:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace or _text(SERVICE_ACCOUNT / "namespace") or "default",
        context="in-cluster",
        source=str(SERVICE_ACCOUNT),
        ca=_text(SERVICE_ACCOUNT / "ca.crt"),
        user={"tokenFile": str(SERVICE_ACCOUNT / "token")},
    )


def _files(kubeconfig: str) -> list[Path]:
    if kubeconfig:
        return [Path(kubeconfig).expanduser()]
    if names := [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]:
        paths = [Path(name).expanduser() for name in names]
        return [path for path in paths if path.exists()] or paths[:1]
    usual = Path("~/.kube/config").expanduser()
    return [usual] if usual.exists() else []


def _merged(files: list[Path], kubeconfig: str) -> dict[str, Any]:
    """Return the content of files in one, as kubectl merges it; `kubeconfig` is the value of the option."""
    option = "--kubeconfig" if kubeconfig else "KUBECONFIG" if os.environ.get("KUBECONFIG") else "the path"
    return reduce(_merge, (_read(file, option) for file in files), {})


def _read(file: Path, option: str) -> dict[str, Any]:
    """Parse one kubeconfig; files that it names become their contents. Raises NoAccess, which names the option."""
    try:
        config = yaml.safe_load(file.read_text()) or {}
        for kind, keys in _BY_PATH.items():
            for entry in config.get(f"{kind}s") or []:
                body = entry.get(kind) or {}
                for key in keys:
                    if body.get(f"{key}-data"):
                        body[f"{key}-data"] = base64.b64decode(body[f"{key}-data"]).decode()
                    elif body.get(key):
                        body[f"{key}-data"] = (file.parent / Path(body[key]).expanduser()).read_text()
                if kind == "user" and body.get("tokenFile"):
                    body["tokenFile"] = str(file.parent / Path(body["tokenFile"]).expanduser())
                plugin = body.get("exec") if kind == "user" else None
                if plugin and plugin["command"].startswith(("./", "../")):
                    plugin["command"] = str(file.parent / plugin["command"])
    except OSError as error:
        raise NoAccess(f"{error.filename or file} cannot be read: {error.strerror}. Correct {option}.") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise NoAccess(f"{file} is not a kubeconfig: {' '.join(str(error).split())}. Correct the file.") from None
    return dict(config)


_BY_PATH = {"cluster": ["certificate-authority"], "user": ["client-certificate", "client-key"]}


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Join two kubeconfigs: what stands in the first one wins."""
    merged = {**second, **{key: value for key, value in first.items() if value}}
    for key in ("clusters", "contexts", "users"):
        entries = {entry["name"]: entry for entry in [*(second.get(key) or []), *(first.get(key) or [])]}
        merged[key] = list(entries.values())
    return merged


def _entry(config: dict[str, Any], kind: str, name: str, source: str) -> dict[str, Any]:
    for entry in config.get(f"{kind}s") or []:
        if entry["name"] == name:
            return dict(entry.get(kind) or {})
    raise NoAccess(f"{kind} {name!r} is not in {source}. Correct the file, or choose another context.")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise NoAccess(f"{path} cannot be read: {error.strerror}.") from None
