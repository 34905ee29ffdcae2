"""Values and manifests that our own schemas admit, made by hypothesis."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from bare import documents, schema_of
from hypothesis import strategies as st
from ultramarine.resources.sweep import MOST_HOURS
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import MOST_PODS
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.training import REFERENCE

Values = st.SearchStrategy[Any]
Path = tuple[str | int, ...]

NAMES = tuple(kind.name for kind in KINDS)
KIND = {kind.name: kind for kind in KINDS}
OPEN = "x-kubernetes-preserve-unknown-fields"
SMALL = 3  # members of a list or map, as a rule
SHORT = 30  # characters, as a rule
ODD = [
    "",
    " ",
    "null",
    "1e3",
    "$(params.a)",
    "$(outputs.model)",
    "$(HOME)",
    "é",
    "\U0001f4a5",
    "\x00",
    "\u2028",
    "a\nb",
]
QUANTITIES = ["cpu", "memory", "nvidia.com/gpu"]
OBJECT_NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)


# ---- What a schema says, beyond OpenAPI's own words: our patterns are CEL rules that speak in sentences.


def says(schema: Manifest) -> Iterator[str]:
    """The CEL rules of a schema node."""
    return (each["rule"] for each in schema.get("x-kubernetes-validations", []))


def _found(schema: Manifest, expression: str) -> re.Match[str] | None:
    return next((found for rule in says(schema) if (found := re.search(expression, rule))), None)


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as the API server reads it: RE2's $ is the very end, and its white space is ASCII's without \\v."""
    return re.compile(pattern.replace(r"\s", r"\t\n\f\r ").removesuffix("$") + r"\Z", re.ASCII)


def pattern_of(schema: Manifest) -> re.Pattern[str] | None:
    """What a text must match."""
    found = _found(schema, r"(?<!!)self\.matches\(r?'(.*)'\)$")
    return _compiled(found[1]) if found else None


def key_pattern_of(schema: Manifest) -> tuple[re.Pattern[str], int] | None:
    """What the keys of a map must match, and their greatest length."""
    found, size = _found(schema, r"key\.matches\('(.*?)'\)"), _found(schema, r"size\(key\) <= (\d+)")
    return (_compiled(found[1]), int(size[1]) if size else SHORT) if found else None


def fixed_fields(schema: Manifest) -> list[str]:
    """The fields that cannot be changed."""
    return [found[1] for rule in says(schema) if (found := re.search(r"self\)?\.(\w+)\]? == .*\.\1\]?\)$", rule))]


def with_fixed(schema: Manifest, first: Manifest, later: Manifest) -> Manifest:
    """A later value in which what cannot be changed is as in the first one, however deep."""
    fixed = fixed_fields(schema)
    made = {name: value for name, value in later.items() if name not in fixed}
    made |= {name: first[name] for name in fixed if name in first}
    for name, child in schema.get("properties", {}).items():
        if name not in fixed and "properties" in child and (name in first or name in made):
            below = with_fixed(child, first.get(name) or {}, made.get(name) or {})
            if below or name in made:
                made[name] = below
    return made


@functools.cache
def schema(kind: str, part: str) -> Manifest:
    """The schema of a kind's spec or status."""
    found: Manifest = schema_of(documents()[kind])["properties"][part]
    return found


# ---- Valid


def rarely(odd: Values, usual: Values) -> Values:
    """Now and then something odd; what fails with the usual is shrunk to it."""
    return st.integers(0, 15).flatmap(lambda n: odd if n == 15 else usual)


def texts(limit: int, least: int = 0) -> Values:
    """Any text that JSON can carry, short as a rule and now and then as long as may be."""
    usual = st.text(min_size=least, max_size=min(limit, SHORT)) | st.sampled_from([s for s in ODD if len(s) >= least])
    return rarely(st.characters(codec="utf-8").map(lambda c: c * min(limit, 5000)), usual)


def moments() -> Values:
    """Times in every form that the API server takes for one."""
    years, seconds = st.sampled_from(["0000", "0001", "1970", "2030", "9999"]), st.sampled_from(["00", "59"])
    ends = st.sampled_from(["Z", "z", ".5Z", ",123456789Z", "+00:00", "-23:59", ".000001+14:00"])
    return st.builds("{}-12-31{}23:59:{}{}".format, years, st.sampled_from("Tt"), seconds, ends)


def from_schema(schema: Manifest) -> Values:
    """Values that a schema admits, but for rules that bind several fields together."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(schema.get("minimum", 0), schema.get("maximum", 2**40)) | _from_pattern(schema)
    if schema.get(OPEN) and "type" not in schema:
        return st.sampled_from(["a", "b", "", 1, 2, 0.5, True, False])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
        case "string" if schema.get("format") == "date-time":
            return moments()
        case "string":
            return (
                _from_pattern(schema) if pattern_of(schema) else texts(schema["maxLength"], schema.get("minLength", 0))
            )
        case "array":
            return _lists(schema)
        case "object" if schema.get(OPEN):  # Kubernetes' own, of which we know no more than this
            return st.sampled_from([{}, {"preferredDuringSchedulingIgnoredDuringExecution": []}])
        case "object" if "additionalProperties" in schema:
            return _maps(schema)
        case "object":
            fields = {name: from_schema(child) for name, child in schema.get("properties", {}).items()}
            needed = {name: fields.pop(name) for name in schema.get("required", [])}
            return st.fixed_dictionaries(needed, optional=fields)
    raise AssertionError(f"no values for {schema}")


def _from_pattern(schema: Manifest) -> Values:
    pattern = pattern_of(schema)
    assert pattern is not None
    found = st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= schema["maxLength"])
    forbidden = [
        re.compile(match[1]) for rule in says(schema) if (match := re.search(r"^!self\.matches\('(.*)'\)$", rule))
    ]
    return found.filter(lambda text: not any(each.search(text) for each in forbidden))


def _lists(schema: Manifest) -> Values:
    keys = schema.get("x-kubernetes-list-map-keys")
    different: Callable[[Any], Any] | None = (lambda item: tuple(item[key] for key in keys)) if keys else None
    if schema.get("x-kubernetes-list-type") == "set":
        different = _itself
    most = min(schema["maxItems"], SMALL)
    return st.lists(
        from_schema(schema["items"]), min_size=schema.get("minItems", 0), max_size=most, unique_by=different
    )


def _itself(item: Any) -> Any:
    return item


def _maps(schema: Manifest) -> Values:
    values = schema["additionalProperties"]
    if rule := key_pattern_of(schema):
        pattern, limit = rule
        keys = st.from_regex(pattern, fullmatch=True).filter(lambda key: len(key) <= limit)
    elif values.get("x-kubernetes-int-or-string"):
        keys = rarely(texts(SHORT), st.sampled_from(QUANTITIES))
    else:
        keys = texts(SHORT)
    most = min(schema["maxProperties"], SMALL)
    return st.dictionaries(keys, from_schema(values), min_size=schema.get("minProperties", 0), max_size=most)


def _whole_source(source: Manifest) -> Manifest:
    if git := source.get("git"):
        return {"git": {**git, "secretRef": {"name": "churn-git"}} if "@" in git.get("url", "") else git}
    if name := source.get("configMap"):
        return {"configMap": name}
    uri = source.get("uri", "").rstrip("/")
    if uri.count("/") > 2:  # else there was no more than a bucket
        return {"uri": uri, **({"digest": source["digest"]} if "digest" in source else {})}
    inline = source.get("inline") or {"train.py": "print(1)"}
    return {"inline": {re.sub(r"^\.(\.|$)", "_", name): text for name, text in inline.items()}}


def _whole_training_job(_: Manifest, spec: Manifest, searched: Collection[str] = ()) -> None:
    if "parameters" in spec:
        spec["parameters"] = {
            "p" + re.sub(r"[^A-Za-z0-9_.-]", "_", name): value for name, value in spec["parameters"].items()
        }
    known = {"params": {*spec.get("parameters", {}), *searched}}
    known |= {kind: set(spec.get(kind, {})) for kind in ("inputs", "outputs")}
    for words in (spec["command"], spec.get("args", [])):
        words[:] = [
            text if all(name in known[kind] for kind, name in REFERENCE.findall(text)) else text.replace("$", "")
            for text in words
        ]
    spec["command"][0] = spec["command"][0] or "true"
    if len(spec["command"]) == 1:
        spec["command"][0] = spec["command"][0].replace(" ", "_")
    for variable in spec.get("env", []):
        if REFERENCE.search(str(variable.get("value"))):
            variable["value"] = "a"
        if "value" in variable or not variable.get("valueFrom"):
            variable.pop("valueFrom", None)
        elif len(variable["valueFrom"]) > 1:
            del variable["valueFrom"]["secretKeyRef"]
    for output in spec.get("outputs", {}).values():
        if "registerAs" not in output:
            output.pop("format", None)
            output.pop("compile", None)
            output.pop("allowCodeExecution", None)
    if "source" in spec:
        spec["source"] = _whole_source(spec["source"])
    for origin in spec.get("envFrom", []):
        if "secretRef" in origin:
            origin.pop("configMapRef", None)
        else:
            origin.setdefault("configMapRef", {"name": "a"})
    _whole_nodes(spec)
    _whole_failures(spec)
    for toleration in spec.get("podTemplate", {}).get("tolerations", []):
        _whole_toleration(toleration)


def _whole_nodes(spec: Manifest) -> None:
    nodes = spec.get("nodes", 1)
    if nodes > 1:
        spec.setdefault("framework", "none")
        if elastic := spec.get("elastic"):
            elastic["minNodes"] = 1 + (elastic["minNodes"] - 1) % (nodes - 1)
    else:
        spec.pop("elastic", None)
    if spec.get("framework") not in ("torch", "mpi"):
        spec.pop("processesPerNode", None)


def _whole_failures(spec: Manifest) -> None:
    if "onOutOfMemory" in spec:
        spec.setdefault("resources", {}).setdefault("limits", {}).setdefault("memory", "1Gi")
    checkpoint = spec.get("checkpoint", {})
    if checkpoint.get("resume") == "Never":
        checkpoint.pop("resumeFrom", None)
    if "resumeFrom" in checkpoint:
        checkpoint["resumeFrom"] = checkpoint["resumeFrom"].rstrip("/") + "/"
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        exits = rule["onExitCodes"]
        if exits["operator"] == "In":
            exits["values"] = [code for code in exits["values"] if code] or [1]


def _whole_toleration(toleration: Manifest) -> None:
    if not toleration.get("key"):
        toleration["operator"] = "Exists"
    if toleration.get("operator") == "Exists":
        toleration.pop("value", None)
    if toleration.get("effect") != "NoExecute":
        toleration.pop("tolerationSeconds", None)


def _whole_model_version(manifest: Manifest, spec: Manifest) -> None:
    if spec["format"]["name"] == "onnx":
        spec.pop("compile", None)
    spec["model"] = manifest["metadata"]["name"]
    manifest["metadata"]["name"] = f"{spec['model']}-{spec['version']}"


def _whole_endpoint(_: Manifest, spec: Manifest) -> None:
    names = [deployment["name"] for deployment in spec["deployments"]]
    drawn = spec.pop("traffic", {})
    if drawn or len(names) > 1:
        live, share = len(drawn) % len(names), min(drawn.values(), default=100)
        spec["traffic"] = {name: 100 if number == live else 0 for number, name in enumerate(names)}
        if len(names) > 1:  # split between two of them
            spec["traffic"][names[live]] = share
            spec["traffic"][names[live - 1]] = 100 - share
    copied = spec.pop("mirrorTraffic", {})
    idle = [name for name, share in spec.get("traffic", {}).items() if not share]
    if copied and idle:
        spec["mirrorTraffic"] = dict(zip(idle, copied.values(), strict=False))
    if "rollout" in spec:
        free = [name for name in idle if not spec.get("mirrorTraffic", {}).get(name)]
        _whole_rollout(spec["rollout"], free) if free else spec.pop("rollout")
    for deployment in spec["deployments"]:
        if "warmup" in deployment:
            deployment["warmup"] = {"request": '{"inputs": []}'}
        if "pool" in deployment:
            deployment.pop("model", None)
            deployment.pop("warmup", None)
        else:
            deployment.setdefault("model", "churn@1")
        if wish := deployment.get("autoscale"):
            _whole_autoscale(deployment, wish)
    if spec.get("authMode", "key") != "key":
        spec.pop("keysSecretRef", None)
    token = spec.pop("token", {"issuer": "a", "audiences": ["a"]})
    if spec.get("authMode") == "token":
        if "jwksUri" in token:
            token.pop("jwks", None)
        else:
            token["jwks"] = '{"keys": [{"kty": "RSA"}]}'
        spec["token"] = token
    pools = {deployment["name"] for deployment in spec["deployments"] if "pool" in deployment}
    if pools:
        spec.pop("dataCollector", None)
    if spec.get("rollout", {}).get("candidate") in pools:
        spec.pop("rollout")
    if pools and "rollout" in spec:
        spec["rollout"].get("gates", {}).pop("agreement", None)
        if not spec["rollout"].get("gates"):
            spec["rollout"].pop("gates", None)
    if "dataCollector" in spec:
        spec["dataCollector"]["uri"] = spec["dataCollector"]["uri"].rstrip("/") + "/"
        spec["dataCollector"]["samplingRate"] = spec["dataCollector"]["samplingRate"] or 1


def _whole_autoscale(deployment: Manifest, wish: Manifest) -> None:
    wish["maxReplicas"] = max(wish["maxReplicas"], wish.get("minReplicas", 1))
    if wish["metric"] == "cpu":
        wish["minReplicas"], wish["target"] = max(1, wish.get("minReplicas", 1)), min(100, wish["target"])
        deployment.setdefault("resources", {}).setdefault("requests", {})["cpu"] = "100m"


def _whole_rollout(rollout: Manifest, free: list[str]) -> None:
    rollout["candidate"] = free[0]
    rollout["steps"] = sorted({*rollout["steps"], 100})
    if len(rollout["steps"]) == 1 or not rollout.get("gates"):
        rollout.pop("gates", None)


def _whole_sweep(manifest: Manifest, spec: Manifest) -> None:
    trial = spec["trialTemplate"]["spec"]
    _whole_training_job(manifest, trial, spec["searchSpace"])
    alone = spec.get("execution") == "PodPerTrial"
    for name in NOT_OF_TRIALS if alone else (*NOT_OF_TRIALS, *NOT_OF_A_POOL):
        trial.pop(name, None)
    for output in trial.get("outputs", {}).values():
        output.clear()
    algorithm = spec.setdefault("algorithm", {})
    if "objectives" in spec:
        spec.pop("objective", None)
        spec.pop("earlyTermination", None)
        spec.pop("registerBest", None)
        for objective in spec["objectives"]:
            objective.pop("stopAt", None)
        if algorithm.get("type") in ("gp", "cmaes"):
            algorithm["type"] = "random"
    else:
        spec.setdefault("objective", {"metric": "loss"})
    space = {name: _whole_parameter(each) for name, each in spec["searchSpace"].items()}
    if algorithm.get("type") == "grid":
        space = {
            name: {"constant": 1} if {"uniform", "logUniform"} & set(each) else each for name, each in space.items()
        }
    spec["searchSpace"] = space
    trial["parameters"] = {name: value for name, value in trial.get("parameters", {}).items() if name not in space}
    limits = spec.setdefault("limits", {})
    if algorithm.get("type") != "grid":
        limits.setdefault("maxTrials", 10)
    if alone:
        manifest["metadata"]["name"] = manifest["metadata"]["name"][:30].rstrip("-")
        limits |= {"maxTrials": min(limits["maxTrials"], MOST_PODS)} if "maxTrials" in limits else {}
    limits["parallelTrials"] = min(limits.get("parallelTrials", 1), limits.get("maxTrials", 1000))
    if "registerBest" in spec:
        trial["outputs"] = {"model": {}}
    resources = trial.setdefault("resources", {})
    if "budget" in spec:
        told = spec["budget"] or {"cpuHours": 1}
        budget = spec["budget"] = {name: min(max(abs(hours), 0.001), MOST_HOURS) for name, hours in told.items()}
        if "cpuHours" in budget:
            resources["requests"] = {**resources.get("requests", {}), "cpu": "1"}
        if "gpuHours" in budget:
            resources["limits"] = {**resources.get("limits", {}), "nvidia.com/gpu": 1}
    if "earlyTermination" in spec:
        spec["earlyTermination"] = _whole_early_termination(spec["earlyTermination"])


NOT_OF_TRIALS = ("suspend", "ttlSecondsAfterFinished")
NOT_OF_A_POOL = (
    *("nodes", "framework", "processesPerNode", "elastic", "checkpoint", "podFailurePolicy", "backoffLimit"),
    *("onOutOfMemory", "activeDeadlineSeconds"),
)


def _whole_parameter(parameter: Manifest) -> Manifest:
    kind, values = next(((k, v) for k, v in parameter.items() if k != "when"), ("constant", 1))
    if kind == "choice":
        return {kind: list({str(value): value for value in values if type(value) is type(values[0])}.values())}
    if kind == "constant":
        return {kind: values}
    low, high = sorted((values["min"], values["max"]))
    if kind == "logUniform":
        low, high = sorted((abs(low) or 1, abs(high) or 1))
    return {kind: {"min": low, "max": high}}


def _whole_early_termination(drawn: Manifest) -> Manifest:
    type = drawn["type"]
    fields = {
        "asha": ("minSteps", "reductionFactor"),
        "hyperband": ("minSteps", "reductionFactor"),
        "median": ("evaluationInterval", "delayEvaluation"),
        "bandit": ("evaluationInterval", "delayEvaluation"),
        "truncation": ("evaluationInterval", "delayEvaluation"),
    }
    needed = {"hyperband": {"maxSteps": 2**53}, "bandit": {"slackAmount": 1}, "truncation": {"truncationPercentage": 9}}
    return {"type": type, **{f: drawn[f] for f in fields[type] if f in drawn}, **needed.get(type, {})}


# What binds several fields together, which no schema node says by itself.
WHOLE_BY_KIND: dict[str, Callable[[Manifest, Manifest], None]] = {
    "TrainingJob": _whole_training_job,
    "ModelVersion": _whole_model_version,
    "OnlineEndpoint": _whole_endpoint,
    "Sweep": _whole_sweep,
}


def whole(kind: str, name: str, spec: Manifest) -> Manifest:
    """A manifest of that spec in which the fields agree with each other."""
    spec = copy.deepcopy(spec)
    manifest = {"apiVersion": KIND[kind].resource.api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    WHOLE_BY_KIND.get(kind, lambda manifest, spec: None)(manifest, spec)
    return manifest


@functools.cache
def specs(kind: str) -> Values:
    """Specs of a kind."""
    return from_schema(schema(kind, "spec"))


@functools.cache
def valid(kind: str) -> Values:
    """Manifests of a kind that keep all its rules."""
    return st.builds(whole, st.just(kind), OBJECT_NAMES, specs(kind))


@functools.cache
def statuses(kind: str) -> Values:
    """Statuses that the API server admits, whatever they say."""
    return from_schema(schema(kind, "status"))


def json_values() -> Values:
    """Any JSON."""
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts(SHORT)
    leaves |= st.floats(allow_nan=False, allow_infinity=False)

    def deeper(inner: Values) -> Values:
        return st.lists(inner, max_size=3) | st.dictionaries(texts(8), inner, max_size=3)

    return st.recursive(leaves, deeper, max_leaves=5)


GONE = object()


def replaced(document: Any, path: Path, value: Any) -> Any:
    """A copy of a document with another value at one place, or, for GONE, without that place."""
    head, rest = path[0], path[1:]
    made = copy.copy(document)
    if rest:
        made[head] = replaced(document[head], rest, value)
    elif value is GONE:
        made.pop(head, None)
    else:
        made[head] = value
    return made
