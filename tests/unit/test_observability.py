"""Metrics of the dashboard and the alerts: the operator exports them, and docs/reference/metrics.md lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from builders import PLATFORM
from prometheus_client import REGISTRY, CollectorRegistry, Info
from prometheus_client.metrics import MetricWrapperBase
from ultramarine_contract import __version__
from ultramarine_contract.meta import Manifest
from ultramarine_operator.engine.accounting import Accounting
from ultramarine_operator.engine.vitals import Gauges, Vitals, Watch
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared import metrics

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "ultramarine" / "files"
TARGET = {"namespace", "job", "pod"}  # what a ServiceMonitor adds to every series
# Series of others, as tests/e2e/test_alerts.py has a real Prometheus read them.
OTHERS = {
    "envoy_http_downstream_rq": {"endpoint", "code"},
    "envoy_http_downstream_rq_total": {"endpoint"},
    "envoy_listener_ssl_certificate_expiration_unix_time_seconds": {"endpoint", "certificate"},
    "ultramarine_gateway_tokens_total": {"endpoint", "deployment", "key", "direction"},
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
}
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
ALERTS = [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


OPEN, SHUT = Watch("Job", 40.0, 40.0), Watch("Job", 99.0, None)


def vitals(**changed: Any) -> Vitals:
    """A leader that lacks nothing, a minute after it began."""
    well: dict[str, Any] = {
        "leading": True,
        "holder": "operator-0",
        "lease_trouble": "",
        "lease_idle": 3.0,
        "depth": 0,
        "oldest": 0.0,
        "passed": 5.0,
        "done": 5.0,
        "tried": 30.0,
        "listed": 30.0,
        "unlisted": "",
        "refused": frozenset(),
        "watches": {"/a/jobs": OPEN, "/b/jobs": OPEN},
        "now": 100.0,
        "lag": 0.0,
        "tasks": 30,
    }
    return Vitals(**{**well, **changed})


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every series that the operator and others export, with its labels."""
    registry = CollectorRegistry()
    Info("ultramarine_build", "", registry=registry).info({"version": __version__})
    registry.register(Gauges(vitals, lambda: {"Model": ["Ready"]}, lambda: 0.0))
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            if metric._labelnames:
                metric.labels(*("x" for _ in metric._labelnames))  # so that it has a series
            registry.register(metric)
    samples = [s for r in (registry, REGISTRY) for family in r.collect() for s in family.samples]
    return {sample.name: set(sample.labels) for sample in samples} | OTHERS


def panels() -> Iterator[Manifest]:
    """Every panel that asks for something."""
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[tuple[str, str]]:
    """Every PromQL expression, with where it stands; Grafana's own variables have a value."""
    found = [(f"alert {rule['alert']}", rule["expr"]) for rule in ALERTS]
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "ml")
            found.append((f"panel {panel['title']}", expr))
    return found


def parts(node: Any) -> Iterator[Any]:
    """An expression and all that it is made of."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, str | int | float):
            yield from parts(inner)
    for argument in getattr(node, "args", None) or []:
        yield from parts(argument)


def selectors(node: Any) -> list[Any]:
    """The series that an expression selects."""
    return [part for part in parts(node) if isinstance(part, promql_parser.VectorSelector)]


@pytest.mark.parametrize(("where", "expr"), expressions(), ids=lambda value: str(value)[:60])
def test_every_expression_asks_for_what_is_exported(exported, where, expr):
    """Every expression parses, and each series and label in it is one that the operator exports."""
    tree = promql_parser.parse(expr)

    assert selectors(tree)
    for selector in selectors(tree):
        assert selector.name in exported, where
        for matcher in selector.matchers.matchers:
            assert matcher.name in exported[selector.name] | TARGET, f"{where}: {matcher.name}"
    for part in parts(tree):
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            known = set().union(*(exported[inner.name] for inner in selectors(part)))
            assert set(part.modifier.labels) <= known | TARGET, where


def test_the_expressions_are_read_to_the_last_series():
    """The reader of expressions above finds every series in them, so that none escapes."""
    for where, expr in expressions():
        named = set(re.findall(r"\b(?:ultramarine|process|python|envoy|kubelet)_\w+", expr))
        assert {selector.name for selector in selectors(promql_parser.parse(expr))} == named, where


def test_labels_in_words_are_labels_of_the_result():
    """A legend or an annotation names only labels that its expression keeps."""
    said = [(rule["expr"], json.dumps(rule["annotations"])) for rule in ALERTS]
    said += [
        (t["expr"], re.sub(r"{{(\w+)}}", r"$labels.\1", t["legendFormat"])) for p in panels() for t in p["targets"]
    ]
    for expr, text in said:
        tree = promql_parser.parse(expr.replace("$__rate_interval", "5m"))
        grouped = [p for p in parts(tree) if isinstance(p, promql_parser.AggregateExpr) and p.modifier is not None]
        if grouped:
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= set(grouped[0].modifier.labels), expr


def test_outcomes_that_alerts_wait_for_do_occur():
    """Each value that an alert names in a matcher on outcomes is one that the code gives."""
    code = "".join(path.read_text() for path in (ROOT / "operator" / "ultramarine_operator").rglob("*.py"))
    for rule in ALERTS:
        for words in re.findall(r'outcome=~?"([^"]+)"', rule["expr"]):
            assert all(f'"{word}"' in code for word in words.split("|")), words


def test_series_that_alerts_count_are_there_from_the_start():
    """Each outcome that an alert takes the increase of has a series before it occurs."""
    begun = CollectorRegistry()
    for metric in (metrics.RECONCILES, metrics.STORAGE_QUESTIONS, metrics.GATEWAY_QUESTIONS, metrics.FINISHED):
        begun.register(metric)
    Accounting(PLATFORM).begin(KINDS, ("team",))
    there = {(sample.name, sample.labels["outcome"]) for family in begun.collect() for sample in family.samples}
    counted = [
        (selector.name, word)
        for rule in ALERTS
        for selector in selectors(promql_parser.parse(rule["expr"]))
        for matcher in selector.matchers.matchers
        if matcher.name == "outcome"
        for word in matcher.value.split("|")
    ]

    assert len(counted) > 10
    assert set(counted) <= there


def test_the_dashboard_can_be_laid_out():
    """Panels have ids of their own, lie within 24 columns, and none covers another."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = [(panel["title"], panel["gridPos"]) for panel in DASHBOARD["panels"]]
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} covers {other}"


def test_every_alert_says_what_to_do():
    """Each alert has a severity, a summary of one sentence, and a description that is longer."""
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["description"]) > len(rule["annotations"]["summary"]) > 20


def test_the_documentation_lists_what_there_is(exported):
    """docs/reference/metrics.md names the operator's metrics, docs/alerts.md the alerts with runbooks; no others."""
    text, runbooks = ((ROOT / "docs" / page).read_text() for page in ("reference/metrics.md", "alerts.md"))
    text, _, _ = text.partition("## Servers")
    ours = {
        name
        for name in exported
        if name.startswith("ultramarine") and name not in OTHERS and not name.endswith("_created")
    }
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in ALERTS}

    assert set(re.findall(r"\bultramarine_\w+", text)) == families
    assert dict(re.findall(r"^\| `(\w+)` \|.*\| (\w+) \|$", runbooks, re.MULTILINE)) == severities
    assert re.findall(r"^## (\w+)$", runbooks, re.MULTILINE) == list(severities)


def test_the_version_is_one():
    """Package, chart and distribution carry the same version."""
    chart = yaml.safe_load((ROOT / "charts" / "ultramarine" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"leading": False, "oldest": 900.0, "passed": 900.0}, ""),  # a standby has nothing to work on
        ({"oldest": 900.0}, ""),  # a long queue, but passes end
        ({"passed": 900.0, "done": None}, ""),  # nothing to do
        ({"oldest": 400.0, "passed": 400.0}, "no pass has ended for 400 s"),
        ({"lease_idle": 200.0}, "the Lease was last asked for 200 s ago"),
        ({"lease_trouble": "away", "leading": False, "listed": None, "unlisted": "away"}, ""),  # no restart cures that
        ({"tried": 2000.0}, "the last listing was begun 2000 s ago"),
        ({"listed": 2000.0}, ""),
        ({"watches": {"/a/jobs": Watch("Job", 90.0, None)}, "now": 800.0}, ""),  # tried in vain
        ({"watches": {"/a/jobs": Watch("Job", 90.0, 90.0)}, "now": 1000.0}, "the watch of /a/jobs was last asked for"),
    ],
)
def test_a_restart_is_asked_for_only_where_it_helps(changed, words):
    """/healthz fails when workers, listing, election or a watch have stopped; not when the outside world is away."""
    found = "; ".join(vitals(**changed).fatal())

    assert (words in found) if words else not found, found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"leading": False, "holder": "operator-1"}, ""),  # a standby is ready
        ({"listed": None, "unlisted": "away"}, "the first listing is not in: away"),
        ({"listed": 1000.0, "unlisted": "away"}, "the last full listing came in 1000 s ago: away"),
        ({"lease_trouble": "403 Forbidden"}, ""),  # one failed renewal; it leads still
        ({"lease_trouble": "403 Forbidden", "leading": False}, "the Lease cannot be taken: 403 Forbidden"),
        ({"refused": frozenset({"/a/jobs", "/b/jobs"})}, ""),  # the right is back, and the watches are open
        (
            {"watches": {"/a/jobs": OPEN, "/b/jobs": SHUT}, "refused": frozenset({"/b/jobs"})},
            "",
        ),  # one namespace is gone
        ({"watches": {"/b/jobs": SHUT}, "refused": frozenset({"/b/jobs"})}, "Job may not be listed or watched in any"),
        ({"watches": {"/a/jobs": Watch("Job", 99.0, None, refused=True)}}, "Job may not be listed or watched"),
        ({"watches": {"/a/jobs": SHUT}}, "the watch of /a/jobs is not open"),
        ({"now": 600.0}, "the watch of /b/jobs is not open"),
    ],
)
def test_what_keeps_a_replica_from_its_work_is_said(changed, words):
    """/readyz fails with a sentence for everything without which the replica neither works nor could take over."""
    found = "; ".join(vitals(**changed).lacking())

    assert (words in found) if words else not found, found


def test_what_people_read_is_plain_json():
    """The body of a probe has no infinities, whatever has not been yet."""
    body = vitals(listed=None, done=None, watches={"/a/jobs": Watch("Job", 99.0)}).as_json()

    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_states_on_a_page_are_few():
    """However many words somebody writes into statuses, a scrape has a bounded number of series."""
    states = [f"State{number}" for number in range(1000)] + ["Ready"] * 5
    (family,) = (f for f in Gauges(vitals, lambda: {"Model": states}).collect() if f.name == "ultramarine_objects")

    assert len(family.samples) == 17
    assert sum(sample.value for sample in family.samples) == 1005
    assert {s.labels["state"]: s.value for s in family.samples}["Ready"] == 5
