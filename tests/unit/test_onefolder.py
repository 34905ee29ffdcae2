"""The cost of a kind: one folder. All else that a kind needs is generated or enumerated."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from materials import MATERIALS
from onefolder.tree import GOLDEN, KIND_FOLDER, Tree, grown
from ultramarine_contract.meta import GROUP, Manifest

# The names of all generated files; the exit code is that of `python -m ultramarine_operator.generate --check`.
LISTED_AND_CHECKED = """
import functools, sys
from ultramarine_operator.generate import __main__ as generate
generate.files = functools.cache(generate.files)
for path in generate.files():
    print(path.relative_to(generate.ROOT))
sys.argv = ["generate", "--check"]
generate.main()
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The repository with the kind Greeting in it."""
    return grown(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def added(tree: Tree) -> dict[str, str]:
    """Files of the tree that the repository has not, or has otherwise."""
    return tree.added()


def test_only_one_folder_is_written_by_hand(tree: Tree, added: dict[str, str]) -> None:
    """Every other file that differs is written by the generator, which finds nothing more to write."""
    generated = tree.run("-c", LISTED_AND_CHECKED).split()
    by_hand = [path for path in added if path not in generated]

    assert by_hand
    assert {str(Path(path).parent) for path in by_hand} == {str(KIND_FOLDER)}


def test_the_api_and_its_pages_follow(added: dict[str, str]) -> None:
    """The CRD has bounds, words, columns and the rule; the reference has a page and a line for the kind."""
    (version,) = yaml.safe_load(added["crds/greetings.yaml"])["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

    assert spec["properties"]["volume"]["maximum"] == 11
    assert spec["properties"]["tone"]["enum"] == ["plain", "loud"]
    assert [rule["message"] for rule in spec["x-kubernetes-validations"]] == ["a loud greeting needs volume; set it"]
    assert {"Ready", "Length", "Age", "Message"} <= {column["name"] for column in version["additionalPrinterColumns"]}
    assert "name: greetings.ultramarine.dev" in added["charts/ultramarine/files/crds.yaml"]
    assert "a loud greeting needs volume" in added["docs/reference/greeting.md"]
    assert "[Greeting](reference/greeting.md)" in added["docs/api.md"]


def test_rights_follow(added: dict[str, str]) -> None:
    """The operator may read Greetings and write their status; viewers may read them, and data scientists write them."""

    def verbs(rules: list[Manifest], resource: str) -> set[str]:
        of_it = [rule for rule in rules if GROUP in rule["apiGroups"] and resource in rule["resources"]]
        return {verb for rule in of_it for verb in rule["verbs"]}

    operator = yaml.safe_load(added["charts/ultramarine/files/rbac.yaml"])["operator"]
    roles = {
        role["metadata"]["name"]: role for role in yaml.safe_load_all(added["charts/ultramarine/files/people.yaml"])
    }

    assert verbs(operator, "greetings") == {"list", "watch"}
    assert verbs(operator, "greetings/status") == {"patch"}
    assert verbs(roles["ultramarine-viewer"]["rules"], "greetings") == {"get", "list", "watch"}
    assert verbs(roles["ultramarine-data-scientist"]["rules"], "greetings") >= {"create", "delete", "patch", "update"}


def test_network_rules_follow(added: dict[str, str]) -> None:
    """Pods with the kind's label may connect to what the kind talks to."""
    networks = {n["name"]: n for n in yaml.safe_load(added["charts/ultramarine/files/networks.yaml"])["networks"]}

    assert networks["greetings"]["selector"] == {"matchLabels": {"ultramarine.dev/kind": "Greeting"}}
    assert networks["greetings"]["operator"]
    assert not networks["greetings"]["mlflow"]


def test_the_rendered_chart_has_the_kind(tree: Tree, helm: str) -> None:
    """An installation has the CRD, and a policy that selects the kind's pods."""
    command = [helm, "template", "um", "charts/ultramarine", "-f", "charts/ultramarine/ci/images-values.yaml"]
    done = subprocess.run(command, cwd=tree.root, capture_output=True, text=True, check=True)
    objects = {
        (item["kind"], item["metadata"]["name"]): item
        for item in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
        if item
    }

    policy = objects["NetworkPolicy", "ultramarine-greetings"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ultramarine.dev/kind": "Greeting"}}
    assert ("CustomResourceDefinition", "greetings.ultramarine.dev") in objects


def test_its_pods_have_a_route_for_reports(tree: Tree) -> None:
    """The kind's Reporting becomes a route of the operator, without a line elsewhere."""
    program = (
        "from ultramarine_operator.engine.reports import Reports\n"
        "from ultramarine_operator.kinds import KINDS\n"
        "from ultramarine_operator.progress import Reception\n"
        "print(*(route.path for route in Reception(None, Reports(None, KINDS, None), None, None).routes))"
    )

    assert "/greetings/{namespace}/{name}" in tree.run("-c", program).split()


def test_the_operator_has_no_test_material(tree: Tree) -> None:
    """No module called testing is imported by the operator; images leave them out."""
    modules = tree.run("-c", "import sys, ultramarine_operator.__main__; print(*sys.modules)").split()

    assert "ultramarine_operator.kinds.greeting" in modules
    assert [name for name in modules if name.startswith("ultramarine_operator.") and "testing" in name] == []


@pytest.mark.slow
def test_its_sample_and_its_reasons_follow(tree: Tree, added: dict[str, str]) -> None:
    """Its sample has a golden file, its reasons a line, and the tests of both and of the generator hold."""
    golden = ("tests/golden/test_golden.py", "-k", "loud_greeting or test_generate or test_reasons")
    tree.pytest(*golden, "--update-golden")
    tree.pytest(*golden, "tests/unit/test_reasons.py", "tests/unit/test_generate.py")

    assert "text: HELLO" in (tree.root / GOLDEN).read_text()
    assert "| `TextStored` |" in added["docs/reference/conditions.md"]


def test_each_kind_is_in_the_benchmark_of_numbers() -> None:
    """`make scale` creates the Neighbour of each kind many times: it can be Ready, or has children to wait for."""
    neighbours = {kind: material.neighbour for kind, material in MATERIALS.items()}
    assert [kind for kind, neighbour in neighbours.items() if not (neighbour.ready or neighbour.children)] == []
