"""The rules of the CRDs as a table: what keeps each, what breaks it, and what the API server then has to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from bare import DIGEST, merged
from ultramarine.shared.formats import FORMATS
from ultramarine.shared.meta import Manifest

TJ, MODEL, VERSION, ENDPOINT = "TrainingJob", "Model", "ModelVersion", "OnlineEndpoint"
NAME = "must be lower-case letters, digits and '-', with a letter or digit at both ends"
URI = "must be s3://BUCKET/KEY, without spaces, backslashes and percent signs"
DOTS = "must not have an empty name, . or .. between slashes"
DIGESTS = "must be sha256: and 64 hexadecimal digits in lower case"
NUMBER = "must be a number from 1, in quotes, such as '7'"
QUANTITY = "must be a quantity such as 2, 500m or 4Gi"
ONE_SOURCE = "give one of inline, configMap, git and uri"
OBJECT = "must be an object's name: lower-case letters, digits, '-' and '.'"
WEB = "must be http:// or https://, without spaces and without a user"
CODE, REPOSITORY = "s3://lake/code.tar.gz", {"url": "https://git.example.com/team/churn.git"}
FOLDER = "each key must be lower-case letters, digits and '-', at most 40 characters: it becomes a folder's name"


@dataclass(frozen=True)
class Rule:
    """A rule: patches of the whole object that keep it and break it, and what the refusal says."""

    kind: str
    reason: str
    accepted: Manifest
    refused: Manifest
    words: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def of_spec(kind: str, reason: str, accepted: Manifest, refused: Manifest, *words: str) -> Rule:
    """A rule about the spec."""
    return Rule(kind, reason, {"spec": accepted}, {"spec": refused}, words)


def called(kind: str, reason: str, accepted: str, refused: str, *words: str) -> Rule:
    """A rule about the name."""
    return Rule(kind, reason, {"metadata": {"name": accepted}}, {"metadata": {"name": refused}}, words)


def endpoint_of(*models: str, **deployment: Any) -> Manifest:
    """The spec of an endpoint with a deployment for each model, a, b, c and so on."""
    made = [{"name": name, "model": model, **deployment} for name, model in zip("abc", models, strict=False)]
    return {"deployments": made, "traffic": {"blue": None, "green": None, "a": 100}, "mirrorTraffic": None}


def pool_of(**pool: Any) -> Manifest:
    """The spec of an endpoint with one deployment, a pool of the models that are labelled tier: small."""
    made = merged({"selector": {"matchLabels": {"tier": "small"}}}, pool)
    traffic = {"blue": None, "green": None, "a": 100}
    return {"deployments": [{"name": "a", "pool": made}], "traffic": traffic, "mirrorTraffic": None}


def bounds(field: str, value: object) -> Manifest:
    """The spec of an endpoint with one field of a deployment's requestSettings or batching."""
    group, _, name = field.partition(".")
    return endpoint_of("m@1", **{group: {name: value}})


def tensor(**patch: Any) -> Manifest:
    """A signature with one input."""
    return {"signature": {"inputs": [merged({"name": "x", "datatype": "FP32", "shape": [-1]}, patch)]}}


def answer(**patch: Any) -> Manifest:
    """A signature with one output that is patched."""
    return {"signature": {"outputs": [merged({"name": "y", "datatype": "FP32", "shape": [-1]}, patch)]}}


def source(**fields: Any) -> Manifest:
    """A source that is not inline."""
    return {"source": {"inline": None, **fields}}


def variable(**fields: Any) -> Manifest:
    """One environment variable."""
    return {"env": [{"name": "A", **fields}]}


def reference(kind: str, **selector: str) -> Manifest:
    """One environment variable from a key of a Secret or ConfigMap."""
    return variable(valueFrom={kind: selector})


LONG = "a" * 40
SMALL, LARGE = {"a.py": "x" * 200_000, "b.py": ""}, {f"{n}.py": "x" * 200_000 for n in range(5)}

RULES = [
    # Names
    called(
        TJ, "a name fits into the names of its pods", LONG, LONG + "a", "metadata.name must have at most 40 characters"
    ),
    called(TJ, "a name has no dot", "a-b", "a.b", "metadata.name must not contain a dot: it becomes a host name"),
    called(
        MODEL, "a name leaves room for the version", LONG, LONG + "a", "metadata.name must have at most 40 characters"
    ),
    called(MODEL, "a name has no dot", "a-b", "a.b", "metadata.name must not contain a dot"),
    called(
        ENDPOINT,
        "a name fits into the names of its pods",
        LONG,
        LONG + "a",
        "metadata.name must have at most 40 characters",
    ),
    called(ENDPOINT, "a name can be a Service's", "a-b", "1a", "metadata.name must start with a letter"),
    called(
        ENDPOINT,
        "a name has no dot",
        "a-b",
        "a.b",
        "metadata.name must start with a letter and must not contain a dot: it becomes a Service's name",
    ),
    called(
        VERSION,
        "a name says model and version",
        "churn-7",
        "churn-8",
        "metadata.name must be MODEL-VERSION, from spec.model and spec.version",
    ),
    # What has to be there
    *(Rule(k, "a spec is there", {}, {"spec": None}, ("spec: Required value",)) for k in (TJ, VERSION, ENDPOINT)),
    of_spec(TJ, "a command is there", {}, {"command": None}, "spec.command: Required value"),
    of_spec(TJ, "a source is one", {"source": None}, {"source": {"inline": None}}, "spec.source: ", ONE_SOURCE),
    of_spec(TJ, "a source is one only", source(uri=CODE), {"source": {"uri": CODE}}, "spec.source: ", ONE_SOURCE),
    of_spec(
        TJ,
        "a source's ConfigMap has a name",
        source(configMap={"name": "my-code.v1"}),
        source(configMap={}),
        "spec.source.configMap.name: Required value",
    ),
    of_spec(TJ, "a repository has an address", source(git=REPOSITORY), source(git={}), "spec.source.git.url: Required"),
    of_spec(TJ, "a variable has a name", variable(), {"env": [{"value": "a"}]}, "spec.env[0].name: Required value"),
    of_spec(
        TJ,
        "a reference names its Secret",
        reference("secretKeyRef", name="a", key="b"),
        reference("secretKeyRef", key="b"),
        "spec.env[0].valueFrom.secretKeyRef.name: Required value",
    ),
    of_spec(
        TJ,
        "a reference names the key in the Secret",
        reference("secretKeyRef", name="a", key="b"),
        reference("secretKeyRef", name="a"),
        "spec.env[0].valueFrom.secretKeyRef.key: Required value",
    ),
    of_spec(
        TJ,
        "a reference names its ConfigMap",
        reference("configMapKeyRef", name="a", key="b"),
        reference("configMapKeyRef", key="b"),
        "spec.env[0].valueFrom.configMapKeyRef.name: Required value",
    ),
    of_spec(
        TJ,
        "a reference names the key in the ConfigMap",
        reference("configMapKeyRef", name="a", key="b"),
        reference("configMapKeyRef", name="a"),
        "spec.env[0].valueFrom.configMapKeyRef.key: Required value",
    ),
    of_spec(
        TJ,
        "an input says where it is",
        {"inputs": None},
        {"inputs": {"data": {"uri": None}}},
        "spec.inputs.data.uri: Required value",
    ),
    *(
        of_spec(VERSION, f"a {name} is there", {}, {name: None}, f"spec.{name}: Required value")
        for name in ("model", "version", "uri", "digest", "format")
    ),
    of_spec(VERSION, "a format has a name", {}, {"format": {"name": None}}, "spec.format.name: Required value"),
    of_spec(
        VERSION,
        "a signature has inputs",
        {"signature": None},
        {"signature": {"inputs": None}},
        "spec.signature.inputs: Required value",
    ),
    *(
        of_spec(
            VERSION,
            f"an input has a {name}",
            tensor(),
            tensor(**{name: None}),
            f"spec.signature.inputs[0].{name}: Required value",
        )
        for name in ("name", "datatype", "shape")
    ),
    *(
        of_spec(
            VERSION,
            f"an output has a {name}",
            answer(),
            answer(**{name: None}),
            f"spec.signature.outputs[0].{name}: Required value",
        )
        for name in ("name", "datatype", "shape")
    ),
    of_spec(ENDPOINT, "deployments are there", {}, {"deployments": None}, "spec.deployments: Required value"),
    of_spec(
        ENDPOINT,
        "a deployment has a model",
        endpoint_of("m@1"),
        endpoint_of("m@1", model=None),
        "spec.deployments[0]: ",
        "a deployment serves either a model or a pool; give one of them",
    ),
    of_spec(
        ENDPOINT,
        "a deployment has no pool beside its model",
        pool_of(),
        endpoint_of("m@1", pool={"selector": {"matchLabels": {"tier": "small"}}}),
        "spec.deployments[0]: ",
        "a deployment serves either a model or a pool; give one of them",
    ),
    of_spec(
        ENDPOINT,
        "a pool has no warm-up",
        pool_of(),
        endpoint_of("m@1", model=None, pool={"selector": {"matchLabels": {"a": "b"}}}, warmup={"request": "{}"}),
        "spec.deployments[0]: ",
        "a pool has many models, which no one warmup request fits",
    ),
    of_spec(
        ENDPOINT,
        "a pool has a selector",
        pool_of(),
        pool_of(selector=None),
        "spec.deployments[0].pool.selector: Required value",
    ),
    of_spec(
        ENDPOINT,
        "a pool's selector has labels",
        pool_of(),
        pool_of(selector={"matchLabels": None}),
        "spec.deployments[0].pool.selector.matchLabels: Required value",
    ),
    of_spec(
        ENDPOINT,
        "a pool's labels are at least one",
        pool_of(),
        pool_of(selector={"matchLabels": {"tier": None}}),
        "spec.deployments[0].pool.selector.matchLabels in body should have at least 1 properties",
    ),
    of_spec(
        ENDPOINT,
        "a pool's labels are at most 8",
        pool_of(selector={"matchLabels": {f"l{n}": "a" for n in range(7)}}),
        pool_of(selector={"matchLabels": {f"l{n}": "a" for n in range(8)}}),
        "spec.deployments[0].pool.selector.matchLabels: Too many",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"a pool's labels have keys of labels, not {wrong[:9]}",
            pool_of(selector={"matchLabels": {right: "a"}}),
            pool_of(selector={"matchLabels": {wrong: "a"}}),
            "spec.deployments[0].pool.selector.matchLabels: ",
            "each key must be a label's, such as tier or example.com/tier",
        )
        for right, wrong in (("example.com/tier", "-tier"), ("a" * 317, "a" * 318))
    ),
    of_spec(
        ENDPOINT,
        "a pool's label is as long as a label can be",
        pool_of(selector={"matchLabels": {"tier": "a" * 63}}),
        pool_of(selector={"matchLabels": {"tier": "a" * 64}}),
        "spec.deployments[0].pool.selector.matchLabels.tier: Too long",
    ),
    of_spec(
        ENDPOINT,
        "a pool's alias is one",
        pool_of(alias="champion"),
        pool_of(alias="7"),
        "spec.deployments[0].pool.alias: ",
        "must be a lower-case name, such as champion",
    ),
    of_spec(
        ENDPOINT,
        "a pool's alias is as long as an alias can be",
        pool_of(alias="a" * 40),
        pool_of(alias="a" * 41),
        "spec.deployments[0].pool.alias: Too long",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"a pool's memory is {'at least' if wrong < right else 'at most'} {right} MiB",
            pool_of(maxLoadedMebibytes=right),
            pool_of(maxLoadedMebibytes=wrong),
            "spec.deployments[0].pool.maxLoadedMebibytes in body should be "
            f"{'greater' if wrong < right else 'less'} than or equal to",
        )
        for right, wrong in ((16, 15), (1_048_576, 1_048_577))
    ),
    of_spec(
        ENDPOINT,
        "a deployment has a name",
        endpoint_of("m@1"),
        endpoint_of("m@1", name=None),
        "spec.deployments[0].name: Required value",
    ),
    of_spec(
        ENDPOINT,
        "a warm-up has a request",
        endpoint_of("m@1", warmup={"request": "{}"}),
        endpoint_of("m@1", warmup={}),
        "spec.deployments[0].warmup.request: Required value",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"{field} is {'at least' if wrong < right else 'at most'} {right}",
            bounds(field, right),
            bounds(field, wrong),
            f"spec.deployments[0].{field} in body should be {'greater' if wrong < right else 'less'} than or equal to",
        )
        for field, right, wrong in (
            ("requestSettings.timeoutSeconds", 1, 0),
            ("requestSettings.timeoutSeconds", 3600, 3601),
            ("requestSettings.maxConcurrentRequests", 0, -1),
            ("requestSettings.maxConcurrentRequests", 10_000, 10_001),
            ("requestSettings.maxQueueMilliseconds", 0, -1),
            ("requestSettings.maxQueueMilliseconds", 600_000, 600_001),
            ("batching.maxBatchSize", 1, 0),
            ("batching.maxBatchSize", 4096, 4097),
            ("batching.maxLatencyMilliseconds", 0, -1),
            ("batching.maxLatencyMilliseconds", 10_000, 10_001),
        )
    ),
    of_spec(
        ENDPOINT,
        "a warm-up's request is something",
        endpoint_of("m@1", warmup={"request": "{}"}),
        endpoint_of("m@1", warmup={"request": ""}),
        "spec.deployments[0].warmup.request in body should be at least 2 chars long",
    ),
    of_spec(
        ENDPOINT,
        "a warm-up's request fits into an environment variable",
        endpoint_of("m@1", warmup={"request": "x" * 8192}),
        endpoint_of("m@1", warmup={"request": "x" * 8193}),
        "spec.deployments[0].warmup.request: Too long",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"copies are percent, {right}",
            {"mirrorTraffic": {"green": right}},
            {"mirrorTraffic": {"green": wrong}},
            f"spec.mirrorTraffic.green in body should be {'greater' if wrong < right else 'less'} than or equal to",
        )
        for right, wrong in ((0, -1), (100, 101))
    ),
    of_spec(
        ENDPOINT,
        "a Secret has a name",
        {"keysSecretRef": None},
        {"keysSecretRef": {"name": None}},
        "spec.keysSecretRef.name: Required value",
    ),
    # What must not be empty
    of_spec(
        TJ, "an image has a name", {"image": "a"}, {"image": ""}, "spec.image in body should be at least 1 chars long"
    ),
    of_spec(
        TJ,
        "a command has words",
        {"command": ["a"]},
        {"command": []},
        "spec.command in body should have at least 1 items",
    ),
    of_spec(
        TJ,
        "a command names a program",
        {"command": ["a", ""]},
        {"command": ["", "a"]},
        "spec.command: ",
        "command must name a program",
    ),
    of_spec(
        TJ,
        "a source has files",
        {},
        {"source": {"inline": {"train.py": None}}},
        "spec.source.inline in body should have at least 1 properties",
    ),
    *(
        of_spec(
            TJ,
            f"a reference's {name} is not empty",
            reference(kind, name="a", key="b"),
            reference(kind, **{"name": "a", "key": "b", name: ""}),
            f"spec.env[0].valueFrom.{kind}.{name} in body should be at least 1 chars long",
        )
        for kind in ("secretKeyRef", "configMapKeyRef")
        for name in ("name", "key")
    ),
    of_spec(
        VERSION,
        "a signature has inputs",
        tensor(),
        {"signature": {"inputs": []}},
        "spec.signature.inputs in body should have at least 1 items",
    ),
    of_spec(
        VERSION,
        "an input's name is not empty",
        tensor(),
        tensor(name=""),
        "spec.signature.inputs[0].name in body should be at least 1 chars long",
    ),
    of_spec(
        VERSION,
        "an output's name is not empty",
        answer(),
        answer(name=""),
        "spec.signature.outputs[0].name in body should be at least 1 chars long",
    ),
    of_spec(
        ENDPOINT,
        "there are deployments",
        endpoint_of("m@1"),
        {"deployments": []},
        "spec.deployments in body should have at least 1 items",
    ),
    of_spec(
        ENDPOINT,
        "a Secret's name is not empty",
        {},
        {"keysSecretRef": {"name": ""}},
        "spec.keysSecretRef.name in body should be at least 1 chars long",
    ),
    # Numbers
    of_spec(
        TJ,
        "retries are not negative",
        {"backoffLimit": 0},
        {"backoffLimit": -1},
        "spec.backoffLimit in body should be greater than or equal to 0",
    ),
    of_spec(
        TJ,
        "retries end",
        {"backoffLimit": 100},
        {"backoffLimit": 101},
        "spec.backoffLimit in body should be less than or equal to 100",
    ),
    of_spec(
        TJ,
        "a deadline leaves time",
        {"activeDeadlineSeconds": 1},
        {"activeDeadlineSeconds": 0},
        "spec.activeDeadlineSeconds in body should be greater than or equal to 1",
    ),
    of_spec(
        TJ,
        "a deadline is within a year",
        {"activeDeadlineSeconds": 31536000},
        {"activeDeadlineSeconds": 31536001},
        "spec.activeDeadlineSeconds in body should be less than or equal to 31536000",
    ),
    of_spec(
        TJ,
        "a time to live is not negative",
        {"ttlSecondsAfterFinished": 0},
        {"ttlSecondsAfterFinished": -1},
        "spec.ttlSecondsAfterFinished in body should be greater than or equal to 0",
    ),
    of_spec(
        TJ,
        "a time to live is within ten years",
        {"ttlSecondsAfterFinished": 315360000},
        {"ttlSecondsAfterFinished": 315360001},
        "spec.ttlSecondsAfterFinished in body should be less than or equal to 315360000",
    ),
    of_spec(
        ENDPOINT,
        "replicas are not negative",
        endpoint_of("m@1", replicas=0),
        endpoint_of("m@1", replicas=-1),
        "spec.deployments[0].replicas in body should be greater than or equal to 0",
    ),
    of_spec(
        ENDPOINT,
        "replicas are not huge",
        endpoint_of("m@1", replicas=1000),
        endpoint_of("m@1", replicas=1001),
        "spec.deployments[0].replicas in body should be less than or equal to 1000",
    ),
    of_spec(
        ENDPOINT,
        "traffic is not negative",
        {"traffic": {"green": 0}},
        {"traffic": {"green": -1}},
        "spec.traffic.green in body should be greater than or equal to 0",
    ),
    of_spec(
        ENDPOINT,
        "traffic is in percent",
        {"traffic": {"blue": 100}},
        {"traffic": {"blue": 101}},
        "spec.traffic.blue in body should be less than or equal to 100",
    ),
    # Quantities
    *(
        rule
        for part in ("requests", "limits")
        for rule in (
            of_spec(
                TJ,
                f"{part} are quantities",
                {"resources": {part: {"cpu": "0.5", "memory": "1Gi", "nvidia.com/gpu": 1}}},
                {"resources": {part: {"memory": "1 GB"}}},
                f"spec.resources.{part}",
                "memory",
                QUANTITY,
            ),
            of_spec(
                TJ,
                f"{part} are not negative",
                {"resources": {part: {"cpu": 0}}},
                {"resources": {part: {"cpu": -1}}},
                f"spec.resources.{part}.cpu in body should be greater than or equal to 0",
            ),
            of_spec(
                TJ,
                f"{part} are not negative in words either",
                {"resources": {part: {"cpu": "1"}}},
                {"resources": {part: {"cpu": "-1"}}},
                f"spec.resources.{part}",
                QUANTITY,
            ),
            of_spec(
                ENDPOINT,
                f"{part} are quantities",
                endpoint_of("m@1", resources={part: {"cpu": "250m"}}),
                endpoint_of("m@1", resources={part: {"cpu": "lots"}}),
                f"spec.deployments[0].resources.{part}",
                "cpu",
                QUANTITY,
            ),
            of_spec(
                ENDPOINT,
                f"{part} are not negative",
                endpoint_of("m@1", resources={part: {"cpu": 1}}),
                endpoint_of("m@1", resources={part: {"cpu": -1}}),
                f"spec.deployments[0].resources.{part}.cpu in body should be greater than or equal to 0",
            ),
        )
    ),
    of_spec(
        TJ,
        "a fraction is a string",
        {"resources": {"requests": {"cpu": "0.5"}}},
        {"resources": {"requests": {"cpu": 0.5}}},
        "spec.resources.requests.cpu in body must be of type integer,string",
    ),
    # One of a few words
    of_spec(
        TJ,
        "a format is known",
        {"outputs": {"model": {"format": "lightgbm"}}},
        {"outputs": {"model": {"format": "h5"}}},
        "spec.outputs.model.format: Unsupported value",
        '"sklearn"',
    ),
    of_spec(
        VERSION,
        "a format is known",
        {"format": {"name": "onnx"}, "compile": None},
        {"format": {"name": "auto"}},
        "spec.format.name: Unsupported value",
        '"sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib"',
    ),
    *(
        of_spec(
            VERSION,
            f"{format} is a format",
            {"format": {"name": format}, "compile": None},
            {"format": {"name": format.upper()}},
            "spec.format.name: Unsupported value",
            f'"{format}"',
        )
        for format in FORMATS
    ),
    *(
        of_spec(
            TJ,
            f"{format} is the format of an output",
            {"outputs": {"model": {"format": format}}},
            {"outputs": {"model": {"format": format.upper()}}},
            "spec.outputs.model.format: Unsupported value",
            f'"{format}"',
        )
        for format in FORMATS
    ),
    of_spec(
        VERSION,
        "an input's datatype is the protocol's",
        tensor(datatype="BYTES"),
        tensor(datatype="float"),
        "spec.signature.inputs[0].datatype: Unsupported value",
        '"FP32"',
    ),
    of_spec(
        VERSION,
        "an output's datatype is the protocol's",
        answer(datatype="BYTES"),
        answer(datatype="float"),
        "spec.signature.outputs[0].datatype: Unsupported value",
        '"FP32"',
    ),
    of_spec(
        ENDPOINT,
        "an authMode is known",
        {"authMode": "none", "keysSecretRef": None},
        {"authMode": "basic"},
        "spec.authMode: Unsupported value",
        '"key", "none"',
    ),
    # Words with a form
    of_spec(
        TJ,
        "a variable's name is one",
        variable(),
        {"env": [{"name": "1A"}]},
        "spec.env[0].name: ",
        "must be letters, digits and '_', and must not begin with a digit",
    ),
    of_spec(
        TJ,
        "an input is an s3 URI",
        {"inputs": {"data": {"uri": "s3://lake/a"}}},
        {"inputs": {"data": {"uri": "https://lake/a"}}},
        "spec.inputs[data].uri: ",
        URI,
    ),
    of_spec(
        TJ,
        "an input has no encoded tricks",
        {"inputs": {"data": {"uri": "s3://lake/"}}},
        {"inputs": {"data": {"uri": "s3://lake/%2e%2e/a"}}},
        "spec.inputs[data].uri: ",
        URI,
    ),
    of_spec(
        TJ,
        "an input leads nowhere else",
        {"inputs": {"data": {"uri": "s3://lake/a..b/.c/"}}},
        {"inputs": {"data": {"uri": "s3://lake/a/../b"}}},
        "spec.inputs[data].uri: ",
        DOTS,
    ),
    of_spec(
        TJ,
        "a Model's name is one",
        {"outputs": {"model": {"registerAs": "a-1"}}},
        {"outputs": {"model": {"registerAs": "Churn"}}},
        "spec.outputs[model].registerAs: ",
        NAME,
    ),
    of_spec(
        TJ,
        "an input's name can be a folder",
        {"inputs": {"a-1": {"uri": "s3://lake/a"}}},
        {"inputs": {"A_1": {"uri": "s3://lake/a"}}},
        "spec.inputs: ",
        FOLDER,
    ),
    of_spec(
        TJ,
        "an output's name can be a folder",
        {"outputs": {LONG: {}}},
        {"outputs": {LONG + "a": {}}},
        "spec.outputs: ",
        FOLDER,
    ),
    of_spec(
        TJ,
        "a source's name is a file's",
        {"source": {"inline": {"A-1_b.py": ""}}},
        {"source": {"inline": {"src/a.py": ""}}},
        "spec.source.inline: ",
        "each key must be a plain file name",
    ),
    of_spec(
        TJ,
        "a source's ConfigMap is named as ConfigMaps are",
        source(configMap={"name": "a"}),
        source(configMap={"name": "a/b"}),
        "spec.source.configMap.name: ",
        OBJECT,
    ),
    *(
        of_spec(TJ, f"a repository is no {url}", source(git=REPOSITORY), source(git={"url": url}), "git.url: ", WEB)
        for url in ("git@example.com:team/churn.git", "file:///etc", "https://ada:secret@example.com/churn.git")
    ),
    *(
        of_spec(
            TJ,
            f"a ref is not {ref}",
            source(git={**REPOSITORY, "ref": "release/1.2_rc-3"}),
            source(git={**REPOSITORY, "ref": ref}),
            "spec.source.git.ref: ",
            "must be a branch, a tag or a commit id of 40 hexadecimal digits",
        )
        for ref in ("--upload-pack=x", "a b", "a^{}")
    ),
    *(
        of_spec(
            TJ,
            f"a repository's folder is not {path}",
            source(git={**REPOSITORY, "path": "src/train_1/v2.0"}),
            source(git={**REPOSITORY, "path": path}),
            "spec.source.git.path: ",
            "must be a folder's path inside the repository, such as src/train",
        )
        for path in ("../src", "/src", "src/../..", "src//a", ".git")
    ),
    of_spec(TJ, "an archive is in the storage", source(uri=CODE), source(uri="http://a/b"), "spec.source.uri: ", URI),
    of_spec(TJ, "an archive's path is plain", source(uri=CODE), source(uri="s3://lake/../a"), "source.uri: ", DOTS),
    of_spec(
        TJ,
        "an archive is one object",
        source(uri=CODE),
        source(uri="s3://lake/code/"),
        "spec.source: ",
        "uri must name one archive, not all below a prefix",
    ),
    of_spec(
        TJ,
        "a source's digest is one",
        source(uri=CODE, digest=DIGEST),
        source(uri=CODE, digest="sha256:A"),
        "spec.source.digest: ",
        DIGESTS,
    ),
    of_spec(
        TJ,
        "a digest is about an archive",
        source(uri=CODE, digest=DIGEST),
        source(git=REPOSITORY, digest=DIGEST),
        "spec.source: ",
        "digest is about the archive at uri; leave it out",
    ),
    of_spec(
        TJ,
        "a source's name can be a ConfigMap's key",
        {"source": {"inline": {".hidden": ""}}},
        {"source": {"inline": {"..data": ""}}},
        "spec.source.inline: ",
        "each key must be a plain file name, which does not begin with two dots",
    ),
    of_spec(
        TJ,
        "a source fits into a ConfigMap",
        {"source": {"inline": SMALL}},
        {"source": {"inline": LARGE}},
        "spec.source.inline: ",
        "the files together may have 900,000 characters; put larger ones into an image or an input",
    ),
    of_spec(
        TJ,
        "a parameter's name is one",
        {"parameters": {"a.b-c_1": ""}},
        {"parameters": {"a b": ""}},
        "spec.parameters: ",
        "each key must be a plain identifier",
    ),
    of_spec(
        MODEL,
        "an alias is a name",
        {"aliases": {"next-1": "8"}},
        {"aliases": {"7": "7"}},
        "spec.aliases: ",
        "each alias must be a lower-case name",
    ),
    of_spec(
        MODEL,
        "latest is taken",
        {"aliases": {"newest": "7"}},
        {"aliases": {"latest": "7"}},
        "spec.aliases: ",
        "the alias latest is always the newest ready version; choose another name",
    ),
    of_spec(
        MODEL,
        "an alias leads to a number",
        {"aliases": {"champion": "12"}},
        {"aliases": {"champion": "v12"}},
        "spec.aliases[champion]: ",
        NUMBER,
    ),
    of_spec(VERSION, "a model's name is one", {}, {"model": "Churn"}, "spec.model: ", NAME),
    of_spec(VERSION, "a version is a number", {}, {"version": "07"}, "spec.version: ", NUMBER),
    of_spec(
        VERSION, "a version is at an s3 URI", {"uri": "s3://a.b-c/m.onnx"}, {"uri": "s3://A/m.onnx"}, "spec.uri: ", URI
    ),
    of_spec(
        VERSION,
        "a version's URI leads nowhere else",
        {"uri": "s3://lake/a/"},
        {"uri": "s3://lake/a//b"},
        "spec.uri: ",
        DOTS,
    ),
    of_spec(VERSION, "a digest is SHA-256", {"digest": DIGEST}, {"digest": DIGEST.upper()}, "spec.digest: ", DIGESTS),
    of_spec(
        ENDPOINT,
        "a deployment's name is one",
        endpoint_of("m@1"),
        endpoint_of("m@1", name="Blue"),
        "spec.deployments[0].name: ",
        NAME,
    ),
    of_spec(
        ENDPOINT,
        "a model comes with its version",
        endpoint_of("m@latest"),
        endpoint_of("m"),
        "spec.deployments[0].model: ",
        "must be MODEL@VERSION, MODEL@ALIAS or MODEL@latest, such as churn@3",
    ),
    # Fields together
    of_spec(
        TJ,
        "a variable has one source",
        variable(value="a"),
        variable(value="a", valueFrom={"secretKeyRef": {"name": "a", "key": "b"}}),
        "spec.env[0]: ",
        "give either value or valueFrom, not both",
    ),
    of_spec(
        TJ,
        "a value comes from somewhere",
        reference("secretKeyRef", name="a", key="b"),
        variable(valueFrom={}),
        "spec.env[0].valueFrom: ",
        "give one of secretKeyRef and configMapKeyRef",
    ),
    of_spec(
        TJ,
        "the platform's variables are its own",
        {"env": [{"name": "ULTRA"}]},
        {"env": [{"name": "ULTRAMARINE_TASK"}]},
        "spec.env[0]: ",
        "names that start with ULTRAMARINE_ are the platform's own",
    ),
    of_spec(
        TJ,
        "variables differ",
        {"env": [{"name": "A"}, {"name": "B"}]},
        {"env": [{"name": "A"}, {"name": "A"}]},
        "spec.env[1]: Duplicate value",
    ),
    of_spec(
        TJ,
        "a format is of a model",
        {"outputs": {"report": {"registerAs": "a", "format": "onnx"}}},
        {"outputs": {"report": {"format": "onnx"}}},
        "spec.outputs[report]: ",
        "format is about a model; set registerAs too, or leave it out",
    ),
    of_spec(
        ENDPOINT,
        "deployments differ",
        endpoint_of("m@1", "m@2"),
        endpoint_of("m@1", "m@2", name="a"),
        "spec.deployments[1]: Duplicate value",
    ),
    of_spec(
        ENDPOINT,
        "several deployments need traffic",
        endpoint_of("m@1") | {"traffic": None},
        {"traffic": None},
        "spec: ",
        "with several deployments, traffic must say which of them answers, such as {blue: 100}",
    ),
    of_spec(
        ENDPOINT,
        "traffic goes to what there is",
        {"traffic": {"blue": 0, "green": 100}},
        {"traffic": {"red": 0}},
        "spec: ",
        "traffic names a deployment that spec.deployments does not have",
    ),
    of_spec(
        ENDPOINT,
        "keys need authMode key",
        {"authMode": "key"},
        {"authMode": "none"},
        "spec: ",
        "keysSecretRef is used with authMode: key only; remove one of the two",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"traffic is {reason}",
            {"traffic": kept},
            {"traffic": broken},
            "spec.traffic: ",
            "traffic must sum to 100: it is percent of all requests",
        )
        for reason, kept, broken in (
            ("not less than all requests", {"blue": 90, "green": 10}, {"blue": 89, "green": 10}),
            ("not more than all requests", {"blue": 50, "green": 50}, {"blue": 50, "green": 51}),
            ("for somebody", {"blue": 100, "green": 0}, {"blue": 0, "green": 0}),
        )
    ),
    of_spec(
        ENDPOINT,
        "copies go to what there is",
        {"mirrorTraffic": {"green": 10}},
        {"mirrorTraffic": {"red": 10}},
        "spec: ",
        "mirrorTraffic names a deployment that spec.deployments does not have",
    ),
    of_spec(
        ENDPOINT,
        "copies go to who does not answer",
        {"mirrorTraffic": {"green": 10, "blue": 0}},
        {"mirrorTraffic": {"blue": 10}},
        "spec: ",
        "mirrorTraffic names a deployment that answers requests itself; mirror to one whose traffic is 0",
    ),
    of_spec(
        ENDPOINT,
        "the only deployment gets no copies",
        {"mirrorTraffic": None},
        {"mirrorTraffic": {"a": 10}, "traffic": None, "deployments": [{"name": "a", "model": "m@1"}]},
        "spec: ",
        "mirrorTraffic names a deployment that answers requests itself; mirror to one whose traffic is 0",
    ),
    # Unknown fields and wrong types
    *(
        Rule(k, "unknown fields are refused", {}, {"spec": {"nosuch": 1}}, ('unknown field "spec.nosuch"',))
        for k in (TJ, MODEL, VERSION, ENDPOINT)
    ),
    of_spec(
        TJ,
        "unknown fields below are refused",
        {},
        {"outputs": {"model": {"register": "a"}}},
        'unknown field "spec.outputs.model.register"',
    ),
    of_spec(
        ENDPOINT,
        "unknown fields in lists are refused",
        endpoint_of("m@1"),
        endpoint_of("m@1", replica=1),
        'unknown field "spec.deployments[0].replica"',
    ),
    of_spec(
        TJ,
        "a command is a list",
        {"command": ["python"]},
        {"command": "python"},
        "spec.command in body must be of type array",
    ),
    of_spec(
        TJ,
        "a parameter is a string",
        {"parameters": {"rate": "0.1"}},
        {"parameters": {"rate": 0.1}},
        "spec.parameters.rate in body must be of type string",
    ),
    of_spec(
        TJ,
        "a variable's value is a string",
        variable(value="1"),
        variable(value=1),
        "spec.env[0].value in body must be of type string",
    ),
    of_spec(
        TJ,
        "suspend is true or false",
        {"suspend": True},
        {"suspend": "yes"},
        "spec.suspend in body must be of type boolean",
    ),
    of_spec(
        TJ,
        "a count is a whole number",
        {"backoffLimit": 2},
        {"backoffLimit": 2.5},
        "spec.backoffLimit in body must be of type integer",
    ),
    of_spec(
        MODEL,
        "an alias leads to a string",
        {"aliases": {"champion": "7"}},
        {"aliases": {"champion": 7}},
        "spec.aliases.champion in body must be of type string",
    ),
    of_spec(
        VERSION,
        "a version is a string",
        {"version": "7"},
        {"version": 7},
        "spec.version in body must be of type string",
    ),
    of_spec(
        ENDPOINT,
        "replicas are a number",
        endpoint_of("m@1", replicas=2),
        endpoint_of("m@1", replicas="2"),
        "spec.deployments[0].replicas in body must be of type integer",
    ),
]

# What cannot be changed later: every such field, with another value for it.
FIXED: dict[str, Manifest] = {
    TJ: {
        "image": "other:1",
        "source": {"inline": {"train.py": "print(2)"}},
        "command": ["python", "other.py"],
        "args": ["--slow"],
        "parameters": {"rate": "0.2"},
        "env": [{"name": "MODE", "value": "slow"}],
        "envFrom": [{"secretRef": {"name": "other"}}],
        "framework": "mpi",
        "nodes": 3,
        "processesPerNode": 3,
        "elastic": {"minNodes": 2},
        "resources": {"requests": {"cpu": 2}},
        "onOutOfMemory": {"factor": 3},
        "checkpoint": {"enabled": False},
        "podFailurePolicy": {"rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [2]}}]},
        "podTemplate": {"priorityClassName": "low"},
        "inputs": {"data": {"uri": "s3://lake/other/"}},
        "outputs": {"more": {}},
    },
    VERSION: {
        "model": "other",
        "version": "8",
        "uri": "s3://lake/other/",
        "digest": "sha256:" + "b" * 64,
        "format": {"name": "pickle"},
        "signature": {"inputs": [{"name": "z", "datatype": "FP64", "shape": [-1]}]},
        "compile": {"onFailure": "Fail"},
        "lineage": {"trainingJob": "other"},
    },
}
REQUIRED = {"command", "model", "version", "uri", "digest", "format"}
CHANGES = [
    pytest.param(kind, {name: value}, name, id=f"{kind}.{name} {word}")
    for kind, fields in FIXED.items()
    for name, other in fields.items()
    for word, value in (("changed", other), ("removed", None))
    if value is not None or name not in REQUIRED
]
# What may be changed, whatever it was.
FREE = [
    (TJ, {"suspend": True, "backoffLimit": 5, "activeDeadlineSeconds": 120, "ttlSecondsAfterFinished": None}),
    (TJ, {"pendingDeadlineSeconds": 120}),
    (MODEL, {"description": "Other.", "aliases": {"champion": "8", "challenger": "9"}}),
    (MODEL, {"card": {"owner": "other"}, "retention": None}),
    (VERSION, {"allowCodeExecution": True}),
    (ENDPOINT, {"authMode": "none", "keysSecretRef": None, "traffic": {"blue": 0, "green": 100}}),
    (ENDPOINT, {"deployments": [{"name": "red", "model": "churn@9"}], "traffic": None, "mirrorTraffic": None}),
]
