"""The launcher's parts that need no cluster: programs, keys, processes, ports, images, manifests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from ruamel.yaml import YAML
from ultramarine_cluster import __main__ as cli
from ultramarine_cluster import addons, buildah, components, config, images, network, packages, pki, process, programs
from ultramarine_cluster.console import step
from ultramarine_cluster.errors import ClusterError
from ultramarine_cluster.indexes import Index
from ultramarine_cluster.paths import CLUSTER_FOLDER, State, lock, states, write
from ultramarine_cluster.target import OWN_IMAGES, Target, _namespaces, upgrade


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state folder of its own, and a cache of its own."""
    monkeypatch.setenv("ULTRAMARINE_STATE", str(tmp_path / "s"))
    monkeypatch.setenv("ULTRAMARINE_CACHE", str(tmp_path / "c"))
    made = State("one")
    made.make("bare")
    return made


def test_every_tool_of_go_mod_is_built() -> None:
    """The table of programs names exactly the tools of go.mod, and those whose main is ours."""
    block = re.search(r"tool \((.*?)\)", (CLUSTER_FOLDER / "go.mod").read_text(), re.S)

    assert block is not None
    of_cluster = {p.package for p in programs.TABLE if p.module == CLUSTER_FOLDER}
    assert of_cluster == {*block[1].split(), "./coredns", "./netpol"}


def test_versions_agree() -> None:
    """The version that the programs say of themselves is the one that go.mod fetches."""
    assert f"k8s.io/kubernetes v{programs.KUBERNETES}" in (CLUSTER_FOLDER / "go.mod").read_text()


def test_program_names_are_told_by_the_cache_folder(state: State) -> None:
    """Programs lie in a folder that is named by what they are made of; nothing is built in a fresh cache."""
    assert programs.folder().name == f"bin-{programs.key()}"
    assert [p.name for p in programs.missing(programs.BARE)] == ["etcd", "kube-apiserver", "kubectl"]


def test_packages_are_named_without_comments() -> None:
    """debian-packages.txt gives plain package names."""
    assert "buildah" in packages.required()
    assert all(re.fullmatch(r"[a-z0-9.+-]+", name) for name in packages.required())


def test_a_certificate_says_what_was_asked_and_is_kept(state: State) -> None:
    """A certificate carries subject and names, is signed by the authority, and is not made twice."""
    authority = pki.Authority(state.pki, "ca")
    leaf = pki.Leaf("server", "group", hosts=("10.0.0.1", "name.local"))
    pair = authority.issue("server", leaf)
    cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
    first = pair.cert.read_bytes()

    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pair.cert.read_bytes()))
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["name.local"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert pki.Authority(state.pki, "ca").issue("server", leaf).cert.read_bytes() == first
    assert pair.key.stat().st_mode & 0o077 == 0


def test_a_certificate_is_renewed_when_its_names_change(state: State) -> None:
    """A certificate with other contents is made again, and so is a damaged pair."""
    authority = pki.Authority(state.pki, "ca")
    first = authority.issue("server", pki.Leaf("server", hosts=("a",))).cert.read_bytes()
    second = authority.issue("server", pki.Leaf("server", hosts=("a", "b")))

    assert second.cert.read_bytes() != first
    second.key.unlink()
    assert authority.issue("server", pki.Leaf("server", hosts=("a", "b"))).key.exists()


def test_kubeconfig_is_whole_and_private(state: State) -> None:
    """A kubeconfig needs no other file, and only its owner may read it."""
    authority = pki.Authority(state.pki, "ca")
    path = pki.kubeconfig(state.kubeconfig, "https://10.0.0.1:1", authority, authority.issue("me", pki.Leaf("me")))
    document = YAML(typ="safe").load(path.read_text())

    assert document["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:1"
    assert str(state.root) not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def sleeper(words: str = "sleep 60") -> process.Component:
    """A component that is well as soon as it runs."""
    return process.Component("sleeper", ("/bin/sh", "-c", f"exec {words}"), lambda: "")


def await_record(state: State) -> process.Process:
    """The sleeper's process, once it has recorded itself."""
    until = time.monotonic() + 60
    while (running := process.recorded(state, "sleeper")) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return running


def test_a_component_starts_once_and_again_when_it_changes(state: State) -> None:
    """A component that runs as described stays; a changed or dead one is started."""
    assert process.start(state, sleeper()) == "started"
    first = await_record(state)
    try:
        assert process.start(state, sleeper()) == "running"
        assert list(process.marked(state)) == [first]

        assert process.start(state, sleeper("sleep 61")) == "restarted"
        assert not first.alive()
        process.gone([await_record(state)], 0)
    finally:
        for left in process.marked(state):
            process.stop(left)
    assert process.recorded(state, "sleeper") is None
    assert process.start(state, sleeper()) == "started"
    process.stop(await_record(state))


def test_a_process_is_found_while_it_becomes_another_program(state: State) -> None:
    """In the middle of an exec a process has no environment to be known by; it is found all the same."""
    again = process.Component(
        "sleeper", ("/bin/sh", "-c", 'exec /bin/sh -c "$0" "$0"', 'exec /bin/sh -c "$0" "$0"'), str
    )
    process.start(state, again)
    running = await_record(state)
    try:
        assert [list(process.marked(state)) for _ in range(200)] == [[running]] * 200
    finally:
        process.stop(running, grace=0)


def test_a_recycled_pid_is_not_taken_for_ours(state: State) -> None:
    """A record whose process number now belongs to another process counts as dead."""
    line = Path("/proc/self/stat").read_text().split()
    line[21] = str(int(line[21]) - 5)
    process.record(state, "sleeper").write_text(" ".join(line))

    assert process.recorded(state, "sleeper") is None


def test_a_component_that_dies_tells_its_last_words(state: State) -> None:
    """When a component ends at its start, the error holds the end of its log and what to do."""
    dying = process.Component("sleeper", ("/bin/sh", "-c", "echo no disk; exit 3"), lambda: "silent")
    process.start(state, dying)

    with pytest.raises(ClusterError) as caught:
        process.wait(state, dying)
    assert "no disk" in str(caught.value)
    assert "what to do" in str(caught.value)


def test_an_error_names_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    """An error inside a step has the step's name, also for a failed command."""
    with pytest.raises(ClusterError) as caught, step("network"):
        subprocess.run(["false"], check=True, capture_output=True)

    assert str(caught.value).startswith("network failed: `false` ended with 1")


def test_ports_are_kept_and_differ_between_clusters(state: State) -> None:
    """A cluster keeps its ports; another beside it gets others."""
    mine = dict(network.ports(state, components.BARE_PORTS))
    other = State("two")
    other.make("bare")
    theirs = network.ports(other, components.BARE_PORTS)

    assert network.ports(state, components.BARE_PORTS) == mine
    assert not set(mine.values()) & set(theirs.values())
    assert [s.name for s in states()] == ["one", "two"]


def test_two_launchers_do_not_act_at_once(state: State) -> None:
    """A held lock is reported to the second who wants it."""
    with (
        lock("x", wait=False, busy="busy"),
        pytest.raises(ClusterError, match="busy"),
        lock("x", wait=False, busy="busy"),
    ):
        pytest.fail("both held the lock")


def test_a_file_is_written_only_where_it_differs(tmp_path: Path) -> None:
    """kube-proxy ends itself when its file is rewritten, so the same words are not written again."""
    assert write(tmp_path / "f", "a")
    before = (tmp_path / "f").stat().st_ino
    assert not write(tmp_path / "f", "a")
    assert (tmp_path / "f").stat().st_ino == before


def test_a_long_state_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that has no room for unix sockets is refused with the variable that changes it."""
    monkeypatch.setenv("ULTRAMARINE_STATE", "/tmp/" + "x" * 100)
    with pytest.raises(ClusterError, match="too long") as caught:
        State("full").make("full")
    assert "ULTRAMARINE_STATE" in caught.value.remedy


def test_pip_settings_travel_as_one_file(tmp_path: Path) -> None:
    """pip's variables and certificates become one file; what the build cannot see is mounted or left out."""
    bundle = tmp_path / "bundle.crt"
    bundle.touch()
    settings, mounts = buildah.pip_settings(
        {
            "PIP_INDEX_URL": "https://index.example/simple",
            "PIP_FIND_LINKS": "/nowhere",
            "PIP_CACHE_DIR": "/mine",
            "PIP_CERT": str(bundle),
            "PIP_CONFIG_FILE": os.devnull,
        }
    )

    assert "index-url = https://index.example/simple" in settings
    assert "/nowhere" not in settings
    assert "/mine" not in settings
    assert mounts == ["-v", f"{bundle}:{bundle}:ro"]


def test_the_index_of_builds_is_that_of_pip(tmp_path: Path) -> None:
    """Its URLs and authorities become values of the chart, except a URL with a login."""
    bundle = tmp_path / "bundle.crt"
    bundle.touch()
    variables = {"PIP_CONFIG_FILE": os.devnull, "PIP_CERT": str(bundle)}
    index = Index.of({**variables, "PIP_INDEX_URL": "https://index.example/simple", "PIP_EXTRA_INDEX_URL": "https://b"})
    login = Index.of({**variables, "PIP_INDEX_URL": "https://ada:secret@index.example/simple"})

    assert index.words() == [
        'environments.indexUrl="https://index.example/simple"',
        'environments.extraIndexUrls=["https://b"]',
        'environments.ca.configMap="ultramarine-index-ca"',
    ]
    assert login.words() == ['environments.ca.configMap="ultramarine-index-ca"']


def test_an_image_tag_follows_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag changes with a file's words, with its being executable, and with nothing that tools leave behind."""
    (tmp_path / "app" / "__pycache__").mkdir(parents=True)
    (tmp_path / "app" / "Dockerfile").write_text("FROM scratch")
    code = tmp_path / "app" / "code.py"
    code.write_text("1")
    monkeypatch.setattr(images, "REPOSITORY", tmp_path)
    monkeypatch.setattr(images, "table", lambda: {"app": images.Image("app/Dockerfile", ("app",), based=False)})
    first = images.reference("app")
    assert re.fullmatch(r"docker\.io/ultramarine/app:[0-9a-f]{12}", first)

    (tmp_path / "app" / "__pycache__" / "code.pyc").write_text("compiled")
    code.touch()
    assert images.reference("app") == first
    code.chmod(0o755)
    second = images.reference("app")
    code.write_text("2")
    assert len({first, second, images.reference("app")}) == 3


def test_an_unknown_image_is_refused_with_the_known_ones() -> None:
    """A wrong name is answered with the names that there are."""
    with pytest.raises(ClusterError) as caught:
        images.reference("oprator")
    assert "operator" in caught.value.remedy


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of a Deployment, none of another kind."""
    if document["kind"] != "Deployment":
        return []
    listed: list[dict[str, Any]] = document["spec"]["template"]["spec"]["containers"]
    return listed


def test_manifests_are_whole_and_modest(state: State) -> None:
    """Every placeholder is filled in, and the cluster's own pods run with as little right as anyone's."""
    text = addons.manifests(state, "image:1")
    documents = [document for document in YAML(typ="safe").load_all(text) if document]

    assert "${" not in text
    assert '"$VOL_DIR"' in text
    assert {c["name"] for d in documents for c in containers(d)} == set(addons.DEPLOYMENTS)
    for container in (c for d in documents for c in containers(d)):
        context = container["securityContext"]
        assert context["runAsNonRoot"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["image"] == "image:1"


def test_names_on_loopback_are_not_forwarded_to(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    """The cluster's names work without a name server that pods can reach."""
    monkeypatch.setattr(config, "nameservers", list)
    assert "forward ." not in addons.manifests(state, "image:1")


def test_networks_do_not_overlap() -> None:
    """Node, pods and Services have networks of their own, with the fixed addresses inside them."""
    import ipaddress

    node, pods, services = (
        ipaddress.ip_network(net) for net in (network.NODE_NETWORK, network.POD_NETWORK, network.SERVICE_NETWORK)
    )
    assert not node.overlaps(pods)
    assert not pods.overlaps(services)
    assert not node.overlaps(services)
    assert ipaddress.ip_address(network.NODE_ADDRESS) in node
    assert ipaddress.ip_address(network.DNS_SERVICE) in services


def test_a_missing_cluster_is_said_plainly(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for what is not there exits with 1 and the command that makes it."""
    assert cli.main(["kubeconfig", "--name", "none"]) == 1
    assert "ultramarine-cluster up --name none" in capsys.readouterr().err


def test_down_is_fine_with_nothing(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    """Taking down what was never up succeeds and says that there was nothing; a started process is ended."""
    process.start(state, sleeper())
    await_record(state)
    assert cli.main(["down", "--name", "one"]) == 0
    assert not state.root.exists()
    assert list(process.marked(state)) == []
    assert cli.main(["down", "--name", "one"]) == 0
    assert "none was running" in capsys.readouterr().out


def test_help_teaches() -> None:
    """The help of the module shows the commands of an ordinary day."""
    env = {**os.environ, "PYTHONPATH": str(CLUSTER_FOLDER)}
    output = subprocess.run(
        [sys.executable, "-m", "ultramarine_cluster", "--help"], capture_output=True, text=True, env=env, check=True
    ).stdout
    for word in ("up", "down", "status", "images load", "--tier bare", "ULTRAMARINE_CACHE"):
        assert word in output


@pytest.mark.parametrize("name", ["..", "../x", "/", "", "a/b", ".hidden", "Upper"])
def test_a_name_cannot_lead_elsewhere(name: str) -> None:
    """`down` removes the folder of a cluster's name, so a path as a name is refused."""
    with pytest.raises(ClusterError, match="not a valid name of a cluster"):
        State(name)


def test_down_spares_what_it_did_not_make(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that only happens to lie where a state folder would is left alone."""
    foreign = state.root.parent / "foreign"
    foreign.mkdir()
    (foreign / "precious").touch()

    assert cli.main(["down", "--name", "foreign"]) == 1
    assert (foreign / "precious").exists()
    assert "was not made by" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trainer", "server", "gateway"])
def test_an_image_takes_all_that_is_sent_to_its_build(name: str) -> None:
    """The build sees of the operator's package what its Dockerfile copies, or a pod misses a module that it imports."""
    image = images.table()[name]
    root = CLUSTER_FOLDER.parent
    named = re.findall(r"operator/ultramarine_operator\S*", (root / image.dockerfile).read_text())
    copied = {str(path.relative_to(root)) for name in named for path in root.glob(name)}

    assert copied - {"operator/ultramarine_operator"} == {path for path in image.inputs if path.startswith("operator/")}


@pytest.mark.parametrize("name", images.present())
def test_a_build_sees_what_its_dockerfile_copies(name: str) -> None:
    """Each file that a Dockerfile copies is an input of the image, so that it exists and changes the tag."""
    image = images.table()[name]
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (images.REPOSITORY / image.dockerfile).read_text(), re.M)
    copied = {path for line in lines for word in line.split() for path in images.REPOSITORY.glob(word)}
    inputs = [images.REPOSITORY / entry for entry in image.inputs]

    assert copied or not image.based
    assert {path for path in copied if not any(path.is_relative_to(entry) for entry in inputs)} == set()


def test_images_are_pushed_without_a_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The platform's own go to the registry of the environment, which has to be named."""
    monkeypatch.setattr(images, "build", lambda name: f"docker.io/ultramarine/{name}:1")
    monkeypatch.setattr(images, "push", lambda ref, registry: f"{registry}/{ref.rpartition('/')[2]}")
    monkeypatch.delenv("REGISTRY", raising=False)
    assert cli.main(["images", "push"]) == 1
    assert "REGISTRY" in capsys.readouterr().err
    monkeypatch.setenv("REGISTRY", "registry.example.com/ml")
    assert cli.main(["images", "push"]) == 0
    output = capsys.readouterr().out
    assert re.findall(r"pushed as registry.example.com/ml/(.+):1", output) == list(OWN_IMAGES)


def helm(script: str) -> Target:
    """A cluster whose Helm is a line of shell."""
    return Target("context", (), ("sh", "-c", script, "helm"), "")


@pytest.mark.parametrize(
    ("script", "namespaces"),
    [
        ("""echo '{"namespaces": ["team-a"]}'""", ["team-a"]),
        ("echo null", []),
        ("echo 'Error: release: not found' >&2; exit 1", []),
    ],
)
def test_an_upgrade_keeps_the_namespaces_that_the_release_has(script: str, namespaces: list[str]) -> None:
    """They are those that Helm tells; a release that is not there yet has none."""
    assert _namespaces(helm(script), "ultramarine") == namespaces


@pytest.mark.parametrize("where", ["context", "kind"])
def test_an_upgrade_takes_no_crds_from_another_release_of_a_context(where: str, tmp_path: Path) -> None:
    """In a cluster that is made for tests it takes them."""
    script = f'case $1 in get) echo null;; status) exit 1;; *) echo "$@" > {tmp_path}/said;; esac'
    references = dict.fromkeys(OWN_IMAGES, "image:1")
    kubectl = ("sh", "-c", """echo '{"items": []}'""")
    upgrade(replace(helm(script), where=where, kubectl=kubectl), "ultramarine", references)
    output = (tmp_path / "said").read_text()

    assert ("--take-ownership" in output, "crds.takeOver=true" in output) == (where == "kind",) * 2


def test_an_upgrade_leaves_no_namespace_out_because_helm_fails() -> None:
    """Without Helm's word it stops: a namespace that is left out would lose its policies, gateway and keys."""
    with pytest.raises(ClusterError, match="connection refused"):
        _namespaces(helm("echo 'Error: connection refused' >&2; exit 1"), "ultramarine")
