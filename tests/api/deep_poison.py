"""Nonsense where rollouts, scaling, pools, compiling and deleting remember and read: in places, and by what asks them.

What `poison` draws is mostly no status that means anything. Here one field of a live one gets another value, names and
forms are right, and the gateway answers with all but one field as it should.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode

from hypothesis import strategies as st
from poison import Poison
from strategies import GONE, Values, from_schema, json_values, replaced, schema
from ultramarine_contract.catalogue import CatalogueEntry
from ultramarine_contract.common import CATALOGUE_NAME
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import ROUTES_ENTRY, DeploymentFigures, RouteState
from ultramarine_contract.version_records import CompileRecord

GATEWAY = "Gateway"  # the kind of a drop that changes what the gateway says of the endpoint
DEPLOYMENTS = ("blue", "green", "many", "slow")
# A folder that a TrainingJob may have stored something in; NAMESPACE is put in when the poison is laid.
PLACES = [f"s3://lake/{name}/trainingjobs/shop/job/model/{'a' * 16}/" for name in ("NAMESPACE", "other")]


def drops() -> Values:
    """One drop for the set of objects that `test_deep_misuse` makes."""
    return st.one_of(
        _rollouts(), _deployments(), _artifacts(), _compiled(), _catalogues(), _routes(), _autoscalers(), _answers()
    )


def _of_endpoint(status: Manifest) -> Poison:
    return Poison("OnlineEndpoint", "NAME", {"status": status}, "status")


def _rollouts() -> Values:
    """One or two fields of where a rollout stands."""
    fields = schema("OnlineEndpoint", "status")["properties"]["rollout"]["properties"]
    counters = fields["base"]["items"]["properties"]
    near = {
        "step": st.integers(0, 10),
        "phase": st.sampled_from(["Waiting", "Progressing", "Paused", "RolledBack", "Promoted", "Odd", ""]),
        "base": st.lists(
            st.fixed_dictionaries(
                {"pod": st.sampled_from(["gateway-0", ""]), "deployment": st.sampled_from([*DEPLOYMENTS, ""])},
                optional={name: from_schema(counters[name]) for name in ("requests", "errors", "latency")},
            ),
            max_size=4,
        ),
    }
    values = {name: near[name] if name in near else from_schema(child) for name, child in fields.items()}
    one = st.sampled_from(sorted(values)).flatmap(lambda name: st.tuples(st.just(name), values[name] | st.none()))
    return st.lists(one, min_size=1, max_size=2).map(lambda found: _of_endpoint({"rollout": dict(found)}))


def _deployments() -> Values:
    """Yield invalid records of deployments in a status."""
    entry = schema("OnlineEndpoint", "status")["properties"]["deployments"]["items"]["properties"]
    fields = {name: from_schema(child) for name, child in entry.items() if name != "name"}
    names = st.lists(st.sampled_from([*DEPLOYMENTS, "other"]), unique=True, max_size=4)
    entries = names.flatmap(
        lambda chosen: st.tuples(
            *(st.fixed_dictionaries({"name": st.just(name)}, optional=fields) for name in chosen)
        ).map(list)
    )
    return entries.map(lambda found: _of_endpoint({"deployments": found}))


def _artifacts() -> Values:
    """Yield records of a Model about versions that may never have existed."""
    one = st.fixed_dictionaries(
        {"version": st.sampled_from(["1", "2", "3", "99", "0", ""]), "uri": st.sampled_from([*PLACES, "", "s3://"])},
        optional={"deleting": st.booleans()},
    )
    return st.lists(one, max_size=6).map(
        lambda found: Poison("Model", "NAME", {"status": {"artifacts": found}}, "status")
    )


def _compiled() -> Values:
    """Yield records of a running compilation, and statuses of its Job."""
    figures = from_schema(schema("ModelVersion", "status")["properties"]["compiled"])
    words = ["Compiled", "Compiling", "CompileFailed", "ParityFailed", "NotAsked", "Odd", ""]
    status = st.fixed_dictionaries({}, optional={"compiled": figures, "conditions": _conditions("Compiled", words)})
    told = status.map(lambda found: Poison("ModelVersion", "NAME-2", {"status": found}, "status"))
    record = json.loads(CompileRecord(rows_from="1 rows", uri="s3://lake/a/", digest="sha256:0").to_json())
    odd = st.builds(
        lambda name, value: replaced(record, (name,), value),
        st.sampled_from(sorted(record)),
        json_values() | st.just(GONE) | st.just(10**400) | st.just(float("nan")),
    )
    said = (odd | json_values()).map(lambda found: Poison("Pod", "NAME-2-compile-0-abcde", _ended(found), "status"))
    return told | said


def _ended(record: object) -> Manifest:
    """The status of a compiling pod with these last words."""
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "message": json.dumps(record)[:3000]}}
    common = {"name": "store", "image": "a", "imageID": "", "ready": False, "restartCount": 0}
    return {"status": {"phase": "Succeeded", "containerStatuses": [{**common, "state": ended}]}}


def _conditions(type: str, reasons: list[str]) -> Values:
    one = st.fixed_dictionaries(
        {"type": st.sampled_from([type, "Ready"]), "status": st.sampled_from(["True", "False", "Unknown"])},
        optional={"reason": st.sampled_from(reasons), "message": st.sampled_from(["", "\U0001f4a5", "m" * 4000])},
    )
    return st.lists(one, max_size=2, unique_by=lambda condition: condition["type"])


def _catalogues() -> Values:
    """The list of a pool, as somebody has written over it."""
    entry = CatalogueEntry("NAME", "1", "s3://lake/a/", "sha256:0", "onnx").document()
    odd = st.builds(
        lambda name, value: [replaced(entry, (name,), value), {**entry, "model": "gone"}],
        st.sampled_from(sorted(entry)),
        json_values() | st.just(GONE),
    )
    packed = (odd | json_values()).map(lambda found: gzip.compress(json.dumps(found).encode()))
    data = packed | st.binary(max_size=40) | st.sampled_from([b"", gzip.compress(b"[" * 20_000), gzip.compress(b"{")])
    return data.map(
        lambda found: Poison(
            "ConfigMap", "NAME-many-models", {"binaryData": {CATALOGUE_NAME: b64encode(found).decode()}}
        )
    )


def _routes() -> Values:
    """The routes, as somebody has written over them."""
    text = json_values().map(json.dumps) | st.sampled_from(["", "{", "[" * 20_000, '{"port": 1e400}', "null"])
    return text.map(lambda found: Poison("ConfigMap", "NAME-routes", {"data": {ROUTES_ENTRY: found}}))


def _autoscalers() -> Values:
    """Yield statuses of a HorizontalPodAutoscaler, and numbers of pods that another client has set."""
    status = st.fixed_dictionaries(
        {"desiredReplicas": st.integers(0, 2**31 - 1)},
        optional={"conditions": _conditions("ScalingActive", ["FailedGetResourceMetric", ""])},
    )
    told = status.map(lambda found: Poison("HorizontalPodAutoscaler", "NAME-slow", {"status": found}, "status"))
    asked = st.builds(
        lambda name, count: Poison("Deployment", f"NAME-{name}", {"spec": {"replicas": count}}),
        st.sampled_from(DEPLOYMENTS),
        st.integers(0, 4),
    )
    return told | asked


def _answers() -> Values:
    """Yield answers of the gateway about the endpoint."""
    figures = DeploymentFigures(requests=10, latency=((1.0, 5),), rate=1.0, concurrency=1.0).document()
    whole = json.loads(json.dumps(RouteState("0", pod="gateway-0", ready={"blue": 1}).document()))
    whole["figures"] = {name: json.loads(json.dumps(figures)) for name in DEPLOYMENTS}
    paths = st.sampled_from(
        [(name,) for name in whole]
        + [("figures", name) for name in DEPLOYMENTS]
        + [("figures", name, part) for name in DEPLOYMENTS for part in figures]
    )
    odd = st.builds(
        lambda path, value: {"endpoints": {"NAME": replaced(whole, path, value)}},
        paths,
        json_values() | st.just(GONE) | st.sampled_from([10**400, -1, float("nan"), float("inf"), 2**63, True]),
    )
    return (odd | json_values()).map(lambda found: Poison(GATEWAY, "NAME", {"answer": json.dumps(found)}))
