"""Sweep jobs: search space, algorithm, early termination and limits of a Sweep."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.commands import PLAIN
from ultramarine.azureml.components import Joined, component_of, joined
from ultramarine.azureml.context import Context, Refused, metadata_of
from ultramarine.azureml.fields import Fields, as_azure_writes
from ultramarine.azureml.jobs import LOST, YEAR, Run, Training, job_name, training_spec

ALGORITHMS = {"random": "random", "grid": "grid", "bayesian": "tpe", "sobol": "sobol"}
POLICIES = {"bandit": "bandit", "median_stopping": "median", "truncation_selection": "truncation"}
MAX_TRIALS, MAX_PODS, MAX_PARALLEL = 10_000, 1000, 4
MAX_CHOICES, MAX_TEXT, LARGEST = 100, 256, 2**53
_METRIC = re.compile(r"[^A-Za-z0-9_./-]")


def convert_sweep(context: Context, fields: Fields) -> None:
    """Make a Sweep of a sweep job."""
    name = job_name(context, fields, "Sweep")
    metadata = metadata_of(fields)
    context.add(fields.document, *sweep_run(context, fields, name), metadata)


def sweep_run(context: Context, fields: Fields, name: str) -> Run:
    """Return the Sweep of a sweep job."""
    step = joined(context, fields, component_of(context, fields, "trial"))
    return Run("Sweep", name, sweep_spec(context, step, name).spec)


def sweep_spec(context: Context, step: Joined, name: str) -> Training:
    """Return the spec of a sweep job or step; a component's inputs may be parameters of the search space."""
    fields = step.outer
    space, quoted = _search_space(fields.section("search_space"))
    inputs = step.inputs(except_for=space)
    inputs.values |= {("inputs", key): f"$(params.{key})" for key in space}
    trial = training_spec(context, step.fields, name, inputs, quoted, fields)
    training, registered = trial.spec, trial.registered
    spec: Manifest = {"objective": _objective(fields.section("objective")), "algorithm": _algorithm(fields, space)}
    spec |= {"searchSpace": space, "limits": _limits(fields, spec)}
    if policy := _early_termination(fields.section("early_termination")):
        spec["earlyTermination"] = policy
    if "nodes" in training or "framework" in training:
        spec["execution"] = "PodPerTrial"
        spec["limits"]["maxTrials"] = min(spec["limits"].get("maxTrials", MAX_PODS), MAX_PODS)
        training["backoffLimit"] = 0
    if registered:
        _register_best(fields, spec, training, registered)
    spec["trialTemplate"] = {"spec": training}
    fields.close(LOST)
    step.close()
    return Training(spec, registered, trial.outputs)


def _register_best(fields: Fields, spec: Manifest, training: Manifest, model: str) -> None:
    """Register the best trial's output; it must be the only one, or be named model."""
    outputs = training["outputs"]
    key = next(key for key, output in outputs.items() if "registerAs" in output)
    if len(outputs) > 1 and key != "model":
        fields.lose("outputs", f"output {key} is not registered", "Name it model, or remove the other outputs")
    else:
        spec["registerBest"] = model
    for name, output in outputs.items():
        output.pop("registerAs", None)
        if "registerBest" not in spec or name != key:
            output.pop("format", None)


def _objective(fields: Fields) -> Manifest:
    metric = fields.text("primary_metric", "metric")
    name = _METRIC.sub("_", metric)
    name = name if re.match(r"[A-Za-z_]", name) else f"_{name}"
    if not metric:
        raise Refused("has no objective.primary_metric. Name the metric to optimize")
    if name != metric:
        fields.lose("primary_metric", f"{metric} became {name}", "Log or print the metric under this name")
    goal = fields.text("goal").lower()
    if goal not in ("minimize", "maximize"):
        fields.lose("goal", f"{goal[:40] or 'nothing'} became minimize", "Write minimize or maximize")
    fields.close()
    return {"metric": name[:100], "goal": "maximize" if goal == "maximize" else "minimize"}


def _algorithm(fields: Fields, space: Manifest) -> Manifest:
    key = "sampling_algorithm" if "sampling_algorithm" in fields else "algorithm"
    value = fields.take(key)
    section = fields.section(key) if isinstance(value, dict) else fields
    text = section.text("type") if isinstance(value, dict) else fields.text(key)
    type = ALGORITHMS.get(text.lower(), "random")
    result: Manifest = {"type": type}
    if isinstance(value, dict):
        seed = section.whole("seed", 0, LARGEST)
        if section.text("rule").lower() == "sobol":
            result["type"] = "sobol"
        if seed is not None:
            result["seed"] = seed
        section.close({"logbase": ("became e", "Multiply the bounds of loguniform by the logarithm of logbase")})
    if text and text.lower() not in ALGORITHMS:
        fields.lose(key, f"{text} became random", f"Choose one of {', '.join(ALGORITHMS)}")
    if type == "grid" and any("logUniform" in domain or "uniform" in domain for domain in space.values()):
        fields.lose(key, "a grid has no continuous parameters, so it became random", "Use choice for each parameter")
        result["type"] = "random"
    return result


def _limits(fields: Fields, spec: Manifest) -> Manifest:
    """Return the limits; sets spec.activeDeadlineSeconds."""
    section = fields.section("limits")
    total = section.whole("max_total_trials", 1, MAX_TRIALS) or fields.whole("max_total_trials", 1, MAX_TRIALS)
    parallel = section.whole("max_concurrent_trials", 1, MAX_PODS) or fields.whole("max_concurrent_trials", 1, MAX_PODS)
    if timeout := section.whole("timeout", 1, YEAR) or fields.whole("timeout_minutes", 1, YEAR // 60):
        spec["activeDeadlineSeconds"] = timeout if "timeout" in section else 60 * timeout
    limits: Manifest = {}
    if total is None and spec["algorithm"]["type"] != "grid":
        total = MAX_PODS
        section.lose("max_total_trials", f"is missing; it became {total}, as in Azure", "Set the number you need")
    if total:
        limits["maxTrials"] = total
    if parallel is None:
        parallel = MAX_PARALLEL
        section.lose("max_concurrent_trials", f"is missing; it became {parallel}", "Set limits.parallelTrials")
    limits["parallelTrials"] = min(parallel, total or parallel)
    if seconds := section.whole("trial_timeout", 1, YEAR):
        limits["trialTimeoutSeconds"] = seconds
    section.close()
    return limits


def _early_termination(fields: Fields) -> Manifest:
    type = fields.text("type", "policy_type").lower()
    policy: Manifest = {"type": POLICIES.get(type, type)}
    if type and type not in POLICIES:
        fields.lose("type", f"{type} has no counterpart", "Use asha, median, bandit or truncation")
    if policy["type"] == "bandit":
        slack = {"slackFactor": fields.number("slack_factor"), "slackAmount": fields.number("slack_amount")}
        chosen = next(((key, value) for key, value in slack.items() if value is not None and value > 0), None)
        if chosen is None:
            fields.lose("type", "bandit needs a slack above 0", "Set slack_factor or slack_amount")
            policy = {"type": ""}
        else:
            policy[chosen[0]] = chosen[1]
    if policy["type"] == "truncation":
        policy["truncationPercentage"] = fields.whole("truncation_percentage", 1, 99) or 50
    for key, name, least in (
        ("evaluation_interval", "evaluationInterval", 1),
        ("delay_evaluation", "delayEvaluation", 0),
    ):
        if (steps := fields.whole(key, least, LARGEST)) is not None:
            policy[name] = steps
    fields.close()
    return policy if type in POLICIES and policy["type"] else {}


def _search_space(fields: Fields) -> tuple[Manifest, dict[str, str]]:
    """Return the domains, and for each parameter a text if a shell would split one of its values."""
    space: Manifest = {}
    quoted: dict[str, str] = {}
    for key in fields.keys:
        domain = _domain(fields, key)
        space[key] = domain
        texts = [as_azure_writes(value) for value in domain.get("choice", [])]
        quoted[key] = next((text for text in texts if not PLAIN.fullmatch(text)), "")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", key):
            raise Refused(f"has a parameter {key[:80]} in search_space. Rename it to letters, digits and '_'")
    if not 1 <= len(space) <= 64:
        raise Refused(f"has {len(space)} parameters in search_space. Give 1 to 64")
    return space, quoted


def _domain(fields: Fields, key: str) -> Manifest:
    value = fields.take(key)
    if not isinstance(value, dict):
        return _choice(fields, key, value if isinstance(value, list) else [value])
    section = fields.section(key)
    type = section.text("type", "spec").lower()
    if type == "choice":
        values = section.take("values")
        texts = [text.strip() for text in values.split(",")] if isinstance(values, str) else values
        domain = _choice(section, "values", texts if isinstance(texts, list) else [texts])
    elif type == "randint":
        upper = section.whole("upper", 1, LARGEST) or 1
        domain = {"int": {"min": 0, "max": upper - 1}}
    elif type in _RANGES:
        domain = _RANGES[type](section)
    else:
        raise Refused(f"has type {type or 'nothing'} for {key} in search_space. Use choice, uniform or another type")
    section.close()
    return domain


def _choice(fields: Fields, key: str, values: list[Any]) -> Manifest:
    if not values or values == [None]:
        raise Refused(f"has no values for {'.'.join(fields.path)}. Give a list")
    if len(values) > MAX_CHOICES:
        fields.lose(key, f"has {len(values)} values, and the first {MAX_CHOICES} are kept", "Use a range instead")
    if any(isinstance(value, (dict, list)) for value in values):
        fields.lose(key, "has values that are lists or mappings, which became JSON", "Parse them in the script")
    kept = [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values[:MAX_CHOICES]]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in kept)
    if not numbers or any(float(value).is_integer() and isinstance(value, float) for value in kept):
        kept = [as_azure_writes(value)[:MAX_TEXT] for value in kept]
    return {"choice": kept}


def _bounds(fields: Fields) -> tuple[float, float]:
    low, high = fields.number("min_value"), fields.number("max_value")
    if low is None or high is None:
        raise Refused(f"has no min_value or max_value for {'.'.join(fields.path)}. Give both")
    return min(low, high), max(low, high)


def _exponential(value: float) -> float:
    return float(f"{math.exp(min(max(value, -600.0), 600.0)):.12g}")


def _uniform(fields: Fields) -> Manifest:
    low, high = _bounds(fields)
    return {"uniform": {"min": low, "max": high}}


def _log_uniform(fields: Fields) -> Manifest:
    """Azure's bounds are logarithms: a value is exp(uniform(min_value, max_value))."""
    low, high = _bounds(fields)
    return {"logUniform": {"min": _exponential(low), "max": _exponential(high)}}


def _quantized(fields: Fields) -> Manifest:
    """Values are multiples of q."""
    low, high = _bounds(fields)
    return _multiples(low, high, abs(fields.number("q") or 1.0))


def _multiples(low: float, high: float, q: float) -> Manifest:
    low, high = round(low / q) * q, round(high / q) * q
    if low >= high:
        return {"choice": [low]}
    if all(number.is_integer() and abs(number) < LARGEST for number in (low, high, q)):
        return {"int": {"min": int(low), "max": int(high), "step": int(q)}}
    return {"uniform": {"min": low, "max": high, "step": q}}


def _log_quantized(fields: Fields) -> Manifest:
    low, high = (_exponential(bound) for bound in _bounds(fields))
    return _rounded(fields, low, high)


def _rounded(fields: Fields, low: float, high: float) -> Manifest:
    """Return a logarithmic range of whole numbers; another q than 1 is a loss."""
    if (fields.number("q") or 1.0) == 1 and high < LARGEST:
        return {"logInt": {"min": max(1, round(low)), "max": max(1, round(high))}}
    fields.lose("q", "values are not rounded to multiples of it", "Round the value in the script")
    return {"logUniform": {"min": low, "max": high}}


def _normal(fields: Fields) -> Manifest:
    low, high = _two_deviations(fields)
    q = abs(fields.number("q") or 0.0)
    if not q:
        return {"uniform": {"min": low, "max": high}}
    return _multiples(low, high, q)


def _log_normal(fields: Fields) -> Manifest:
    low, high = (_exponential(bound) for bound in _two_deviations(fields))
    if not fields.number("q"):
        return {"logUniform": {"min": low, "max": high}}
    return _rounded(fields, low, high)


def _two_deviations(fields: Fields) -> tuple[float, float]:
    mu, sigma = fields.number("mu") or 0.0, abs(fields.number("sigma") or 1.0)
    fields.lose(
        "type", "a normal distribution became a range of two standard deviations around mu", "Adjust the bounds"
    )
    return mu - 2 * sigma, mu + 2 * sigma


_RANGES: dict[str, Callable[[Fields], Manifest]] = {
    "uniform": _uniform,
    "loguniform": _log_uniform,
    "quniform": _quantized,
    "qloguniform": _log_quantized,
    "normal": _normal,
    "qnormal": _normal,
    "lognormal": _log_normal,
    "qlognormal": _log_normal,
}
