"""Every YAML block of the README and the site, and every example, is what the API server, or the chart, accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from bare import DIGEST, Api, merged
from pages import ROOT, Block, blocks, pages
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_operator.kinds import KINDS

YAML = [block for page in pages() for block in blocks(page) if block.language in ("yaml", "yml")]
EXAMPLES = sorted([*ROOT.glob("examples/**/*.yaml"), *ROOT.glob("tests/images/*/*.yaml")])
# What parts of objects are merged into.
MINIMAL: dict[str, Manifest] = {
    "TrainingJob": {"command": ["python", "train.py"]},
    "OnlineEndpoint": {"deployments": [{"name": "blue", "model": "churn@1"}]},
    "ModelVersion": {
        "model": "churn",
        "version": "7",
        "uri": "s3://ultramarine/team-a/churn.onnx",
        "digest": DIGEST,
        "format": {"name": "sklearn"},
    },
    "Pipeline": {"steps": [{"name": "train", "trainingJob": {"command": ["true"]}}]},
    "Sweep": {
        "objective": {"metric": "loss", "goal": "minimize"},
        "searchSpace": {"lr": {"uniform": {"min": 0, "max": 1}}},
        "limits": {"maxTrials": 10},
        "trialTemplate": {"spec": {"image": "registry.example.com/train:1", "command": ["train", "$(params.lr)"]}},
    },
}
OURS = {kind.name for kind in KINDS}
CHART = ROOT / "charts" / "ultramarine"
NAMES = {"ModelVersion": "churn-7"}
# The fields of kinds that others install, by kind.
FOREIGN = {"Certificate": {"secretName", "dnsNames", "issuerRef"}}


class Loader(yaml.SafeLoader):
    """Reads YAML as Kubernetes does: no key twice, and no number that only YAML 1.2 takes for one."""


def _mapping(loader: Loader, node: yaml.MappingNode) -> Any:
    keys = [loader.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
    assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
    return loader.construct_mapping(node, deep=True)


def _text(loader: Loader, node: yaml.ScalarNode) -> str:
    assert node.style or not re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", node.value), f"write {node.value} with a point"
    return str(node.value)


Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
Loader.add_constructor("tag:yaml.org,2002:str", _text)


def documents(block: Block) -> list[Any]:
    """Return the documents of a block."""
    return [document for document in yaml.load_all(block.text, Loader) if document]


def whole(kind: str, path: str, part: Any) -> Manifest:
    """Return a minimal object of a kind with a part of it replaced."""
    manifest = {"kind": kind, "metadata": {"name": NAMES.get(kind, "churn")}}
    manifest |= {"apiVersion": API_VERSION, "spec": MINIMAL[kind]} if kind in MINIMAL else {"apiVersion": "v1"}
    for key in reversed(path.split(".") if path else []):
        part = {int(key): part} if key.isdigit() else {key: part}
    result: Manifest = _merged(manifest, part)
    return result


def _merged(base: Any, part: Any) -> Any:
    """Merge a part, whose integer keys are places in lists."""
    if isinstance(base, list) and isinstance(part, dict):
        return [_merged(entry, part[place]) if place in part else entry for place, entry in enumerate(base)]
    if isinstance(base, dict) and isinstance(part, dict):
        return base | {key: _merged(base.get(key, {}), value) for key, value in part.items()}
    return merged(base, part)


@pytest.fixture(scope="module")
def api(namespace: Callable[[], Api]) -> Api:
    """One namespace for all blocks, since none of them stays there."""
    return namespace()


def see_accepted(api: Api, manifests: list[Manifest]) -> None:
    """See that the API server accepts manifests; those of our kinds without kubectl, whose start is most of a test."""
    ours = [manifest for manifest in manifests if manifest["kind"] in OURS]
    assert [refusal for manifest in ours if (refusal := api.verdict(manifest))] == []
    if others := [manifest for manifest in manifests if manifest["kind"] not in OURS]:
        api.apply(*others, dry=True)


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_a_block_of_the_documentation_is_accepted(block: Block, api: Api) -> None:
    """Manifests and parts of them pass a server-side dry run, values the chart's schema; no block goes unchecked."""
    manifests = documents(block)
    assert manifests
    if block.marker("values") is not None:
        schema = json.loads((CHART / "values.schema.json").read_text())
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())
        for values in manifests:
            jsonschema.validate(merged(defaults, values), schema)
    elif block.marker("foreign") is not None:
        for manifest in manifests:
            assert manifest["apiVersion"]
            assert manifest["metadata"]["name"]
            assert set(manifest["spec"]) <= FOREIGN[manifest["kind"]]
    else:
        if (part := block.marker("of")) is not None:
            kind, _, path = part.partition(":")
            manifests = [whole(kind, path, document) for document in manifests]
        for manifest in manifests:
            # Every namespace of a page stands for the one of the test.
            manifest["metadata"].pop("namespace", None)
        see_accepted(api, manifests)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_is_accepted(path: Path, api: Api) -> None:
    """Every manifest of examples/, and of the servers in tests/images, passes a server-side dry run."""
    manifests = [document for document in yaml.load_all(path.read_text(), Loader) if document]
    assert manifests
    see_accepted(api, manifests)


def test_no_other_block_holds_a_manifest() -> None:
    """A manifest stands in a block of YAML, so that the test above sees it."""
    others = [block for page in pages() for block in blocks(page) if block.language not in ("yaml", "yml")]
    assert [block.place for block in others if "apiVersion:" in block.text] == []
