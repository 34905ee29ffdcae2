"""Namespaces that are listed, missing, taken off and deleted, by Helm on a real API server; and whose the CRDs are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from bare import ROOT, Api, eventually
from ultramarine_cluster import build
from ultramarine_contract.meta import Manifest
from ultramarine_operator import settings

CHART = ROOT / "charts" / "ultramarine"
KEPT = ("deployment", "service", "serviceaccount", "role", "rolebinding", "networkpolicy", "secret")


@dataclass
class Release:
    """The chart as the release `um` in the namespace of a test."""

    home: Api

    def helm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Helm on it, and give what it said."""
        where = ["--kubeconfig", str(self.home.cluster.kubeconfig), "--namespace", self.home.namespace]
        return subprocess.run([str(self.home.cluster.helm), *where, *words], capture_output=True, text=True)

    def upgrade(self, *namespaces: str) -> str:
        """Install it, or upgrade it to these namespaces; give the notes, or what was refused."""
        values = ("--set-json", f"namespaces={json.dumps(namespaces)}", "--set", "crds.install=false")
        done = self.helm("upgrade", "--install", "um", str(CHART), "-f", str(CHART / "ci/images-values.yaml"), *values)
        return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"

    def there(self, namespace: str, name: str) -> set[str]:
        """The kinds of which an object of that name is there."""
        words = ("get", ",".join(KEPT), "-n", namespace, "-o", "json", "-l", "app.kubernetes.io/instance=um")
        found = json.loads(self.home.cluster.run(*words))["items"]
        return {each["kind"] for each in found if each["metadata"]["name"] == name}

    def get(self, kind: str, name: str, namespace: str = "") -> Manifest:
        """One object."""
        words = ("get", kind, name, "-n", namespace or self.home.namespace, "-o", "json")
        found: Manifest = json.loads(self.home.cluster.run(*words))
        return found


@pytest.fixture
def release(api: Api) -> Iterator[Release]:
    """A release that is still to be installed."""
    build.ensure(("helm",))
    api.cluster.run("delete", "lease", "ultramarine-operator", "-n", api.namespace)  # the chart makes it
    made = Release(api)
    yield made
    made.helm("uninstall", "um")
    api.cluster.run("delete", "priorityclass", f"ultramarine-platform-{api.namespace}", "--ignore-not-found")


def test_a_namespace_comes_goes_and_comes_again(release: Release, namespace: Callable[[], Api]) -> None:
    """One that is missing is named before anything is made; off the list it keeps all that serves, with its walls."""
    home, team = release.home, f"{release.home.namespace}-team"
    said = release.upgrade(team)
    assert f"namespaces: {team} does not exist: create it first (kubectl create namespace {team})" in said
    assert release.there(home.namespace, "ultramarine-operator") == set()

    home.cluster.run("create", "namespace", team)
    assert "refused" not in release.upgrade(home.namespace, team)
    assert release.there(team, "ultramarine-operator") == {"Role", "RoleBinding"}
    keys = release.get("secret", "ultramarine-storage", team)["data"]
    assert f"{team}-b does not exist" in release.upgrade(team, f"{team}-b")

    values = ("--reuse-values", "--set-json=namespaces=[]", "--set=clusterWide=true,tls.internal.issuerRef.name=ca")
    said = release.helm("upgrade", "um", str(CHART), *values, "--dry-run=server").stdout
    lines = [line.strip() for line in said.splitlines()]
    gateway = lines.index("address: ultramarine-gateway.{namespace}.svc:9902")
    assert lines[gateway + 1 : gateway + 4] == ["namespaces:", f"- {home.namespace}", f"- {team}"]
    assert "secret,certificate -l app.kubernetes.io/name=ultramarine" in said

    said = release.upgrade()
    assert f"Namespace {team} is off the list." in said
    assert f"kubectl -n {team} delete " in said
    assert f"kubectl -n {home.namespace} delete " not in said, "it is the platform's"
    gateway = {"Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"}
    assert release.there(team, "ultramarine-gateway") == gateway
    for wall in ("training", "sweeps", "serving", "serving-guarded", "compiling"):
        assert release.there(team, f"ultramarine-{wall}") == {"NetworkPolicy"}
    assert release.there(team, "ultramarine-operator") == set()
    assert release.get("secret", "ultramarine-storage", team)["data"] == keys
    for _ in range(2):  # its account and the way to the storage stay, in this upgrade and the next
        accounts = release.get("secret", "ultramarine-storage-accounts")["data"]
        assert accounts[f"namespace-{team}"] == keys["AWS_SECRET_ACCESS_KEY"]
        assert team in json.dumps(release.get("networkpolicy", "ultramarine-storage")["spec"]["ingress"])
        assert "is off the list" not in release.upgrade()

    assert "refused" not in release.upgrade(team)
    assert release.get("secret", "ultramarine-storage", team)["data"] == keys


@pytest.mark.slow
def test_a_namespace_that_was_deleted_blocks_no_upgrade(release: Release, namespace: Callable[[], Api]) -> None:
    """It is left out, and the notes say so, in each upgrade until it is there again or off the list."""
    teams = [namespace().namespace, namespace().namespace]
    assert "refused" not in release.upgrade(*teams)
    # Nothing of a bare cluster takes it away, but the API server admits nothing in it from now on.
    release.home.cluster.run("delete", "namespace", teams[1], "--wait=false")
    for _ in range(2):
        assert f"Namespace {teams[1]} is listed and does not exist" in release.upgrade(*teams)
        template = release.get("deployment", "ultramarine-operator")["spec"]["template"]
        text = template["metadata"]["annotations"]["ultramarine.dev/settings"]
        assert settings.parse(text).namespaces == [release.home.namespace, teams[0]]


def test_an_installer_needs_no_right_on_namespaces_without_a_list(release: Release) -> None:
    """A first installation looks at the release's own namespace, and at what it makes for the whole cluster."""
    run, user = release.home.cluster.run, f"installer-{release.home.namespace}"
    policies = ("validatingadmissionpolicies", "mutatingadmissionpolicies")
    bindings = ("validatingadmissionpolicybindings", "mutatingadmissionpolicybindings", "clusterrolebindings")
    made = (*policies, *bindings, "clusterroles", "priorityclasses", "customresourcedefinitions")
    run("create", "rolebinding", user, "--clusterrole=cluster-admin", f"--user={user}", "-n", release.home.namespace)
    run("create", "clusterrole", user, "--verb=get", f"--resource={','.join(made)}")
    run("create", "clusterrolebinding", user, f"--clusterrole={user}", f"--user={user}")
    eventually(
        "the rights are in force", lambda: all(_may_get(release, user, kind) for kind in ("leases", "clusterroles"))
    )
    words = ("template", "um", str(CHART), "-f", str(CHART / "ci/images-values.yaml"), "--dry-run=server")
    done = release.helm(*words, "--take-ownership", f"--kube-as-user={user}")

    assert done.returncode == 0, done.stderr


def _may_get(release: Release, user: str, kind: str) -> bool:
    """True if the API server knows that a user may get this kind in the release's namespace."""
    cluster = release.home.cluster
    words = ("-n", release.home.namespace, "auth", "can-i", "get", kind, "--as", user)
    argv = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == "yes"


def test_a_second_release_is_told_whose_the_crds_are(release: Release, namespace: Callable[[], Api]) -> None:
    """Before anything is made it hears that one release keeps them for all; one that is gone keeps nobody out."""
    assert "refused" not in release.upgrade()
    run, home = release.home.cluster.run, release.home.namespace
    crd, notes = "trainingjobs.ultramarine.dev", ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace")
    run("annotate", "crd", crd, f"{notes[0]}=um", f"{notes[1]}={home}")
    second = Release(namespace())
    words = ("install", "um", str(CHART), "-f", str(CHART / "ci/images-values.yaml"), "--dry-run=server")
    try:
        refused = f"the CRDs belong to the release um in namespace {home}. Set crds.install=false"
        assert refused in second.helm(*words).stderr
        assert refused not in second.helm(*words, "--set", "crds.install=false").stderr
        assert refused not in second.helm(*words, "--set", "crds.takeOver=true").stderr
        run("delete", "deployment", "ultramarine-operator", "-n", home)
        assert refused not in second.helm(*words).stderr
    finally:
        run("annotate", "crd", crd, *(f"{note}-" for note in notes))
