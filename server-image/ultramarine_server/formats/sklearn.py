"""Estimators from .skops files: trusted types and checked content, unless their owner has allowed more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import sklearn
import skops.io
from skops.io._audit import Node, audit_tree, get_tree
from skops.io._general import DictNode, JsonNode, ObjectNode, TupleNode
from skops.io._numpy import RandomGeneratorNode
from skops.io._sklearn import TreeNode
from skops.io._utils import read_schema
from ultramarine_contract.errors import listed
from ultramarine_contract.trusted_types import STATE_TUPLES, TRUSTED_NAMES, remedy_for, untrusted_in

from ultramarine_server.errors import LoadError
from ultramarine_server.formats.loading import Options
from ultramarine_server.models.estimator import SklearnModel
from ultramarine_server.models.native_checks import check
from ultramarine_server.models.native_trees import Corrupt, check_tree_state, require

PLATFORM = "sklearn_skops"
_REMEDY = (
    "leave them out (docs/formats.md says what is known), store the model as ONNX, or set allowCodeExecution on the "
    "ModelVersion if you trust its author"
)


def load(path: Path, options: Options) -> SklearnModel:
    """Return the estimator of a file. Raises LoadError for content that could run code, unless code is allowed."""
    return SklearnModel(_estimator(path, code_allowed=options.code_allowed), options.signature)


def _estimator(path: Path, *, code_allowed: bool) -> Any:
    if code_allowed:
        return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    untrusted = untrusted_in(path)
    if untrusted:
        message = f"{path.name} holds types that are not known to be safe: {listed(untrusted)}"
        raise LoadError(f"{message}; {remedy_for(untrusted, _REMEDY)}", "CodeExecutionRefused")
    with ZipFile(path) as archive:
        schema, context = read_schema(archive)
        tree = get_tree(schema, context, trusted=None)
        audit_tree(tree, trusted=TRUSTED_NAMES)
        nodes = _nodes(tree)
        try:
            return _built(path, tree, nodes)
        except Exception as error:  # An attribute of another release may raise any exception.
            others = _versions(nodes) - {sklearn.__version__}
            if not others:
                raise
            writers = ", ".join(sorted(others))
            message = f"{path.name} was written by scikit-learn {writers} and does not fit the image's"
            why = error.message if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
            remedy = f"train it again with {sklearn.__version__}, or trust it (`ultramarine models trust`) and add "
            remedy += f"scikit-learn=={min(others)} to environment.requirements of the deployment"
            raise LoadError(f"{message} {sklearn.__version__} ({why}); {remedy}", "DependencyMissing") from error


def _built(path: Path, tree: Node, nodes: list[Node]) -> Any:
    for node in nodes:
        try:
            _check_node(node)
        except Corrupt as error:
            message = f"{path.name}: {node.module_name}.{node.class_name}{error.attribute} {error.message}"
            raise LoadError(f"{message}; {error.remedy}", error.reason) from error
    estimator = tree.construct()
    check(estimator)
    return estimator


def _versions(nodes: list[Node]) -> set[str]:
    """Return the releases of scikit-learn that wrote parts of the model."""
    written = (node.content.get("_sklearn_version") for node in nodes if isinstance(node, DictNode))
    return {str(json.loads(node.content)) for node in written if isinstance(node, JsonNode)}


def _nodes(tree: Node) -> list[Node]:
    """Return the descriptions of all objects once each, as skops has resolved them."""
    nodes, pending = {id(tree): tree}, [tree]
    while pending:
        for child in pending.pop().children.values():
            inner = child.values() if isinstance(child, dict) else child if isinstance(child, list) else [child]
            for node in inner:
                if isinstance(node, Node) and id(node) not in nodes:
                    nodes[id(node)] = node
                    pending.append(node)
    return list(nodes.values())


def _check_node(node: Node) -> None:
    """Check the arguments that native code or dict.update would get while the object is built."""
    if isinstance(node, TreeNode):
        check_tree_state(node.args.construct(), node.attrs.construct())
    elif isinstance(node, RandomGeneratorNode):
        size = node.seed_seq_state.construct().get("pool_size", 4)  # numpy fills it in quadratic time
        require(type(size) is int and size <= 64, ".seed_seq", "has a pool that is too large")
    elif isinstance(node, ObjectNode):
        name = f"{node.module_name}.{node.class_name}"
        state = node.attrs
        if name in STATE_TUPLES:
            require(isinstance(state, TupleNode), "", "has no state that it could be built of")
        else:
            empty = state is None or (isinstance(state, JsonNode) and state.content == "null")
            require(empty or isinstance(state, DictNode), "", "has attributes without names")
        if name == "lightgbm.basic.Booster" and state is not None:
            from ultramarine_server.formats.lightgbm import complete_text

            given = state.construct()
            text = given.get("_handle", given.get("handle"))
            require(isinstance(text, str) and complete_text(text.encode()), "._handle", "is not a model's text")
