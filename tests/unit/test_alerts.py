"""The alert rules, evaluated by Prometheus' own promtool over series of hours: when they fire, and when not yet.

That the series exist, and look like this when something is wrong, tests/e2e/test_alerts.py shows on the real cluster.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ultramarine_cluster import build, programs
from ultramarine_cluster.paths import REPOSITORY

pytestmark = pytest.mark.slow

RULES = REPOSITORY / "charts" / "ultramarine" / "files" / "alerts.yaml"
NAMES = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
OPERATOR = 'namespace="ml",job="ultramarine-operator",pod="a"'
GATEWAY = 'namespace="team",job="ml/ultramarine-gateway",pod="g",endpoint="churn"'
VOLUME = 'namespace="ml",persistentvolumeclaim="ultramarine-storage"'


@dataclass(frozen=True)
class Case:
    """Series of an alert, in promtool's notation by minutes; the last minute without it, and the first with it."""

    alert: str
    series: dict[str, str]
    quiet: int
    fires: int


def passes(outcome: str, values: str) -> dict[str, str]:
    return {f'ultramarine_reconciles_total{{{OPERATOR},kind="TrainingJob",outcome="{outcome}"}}': values}


def ended(failed: str, succeeded: str) -> dict[str, str]:
    series = f'ultramarine_finished_total{{{OPERATOR},kind="TrainingJob",object_namespace="team"'
    return {f'{series},outcome="Failed"}}': failed, f'{series},outcome="Succeeded"}}': succeeded}


CASES = [
    Case("UltramarineAbsent", {f"ultramarine_leader{{{OPERATOR}}}": "1x10 stale"}, 15, 16),
    Case("UltramarineNoLeader", {f"ultramarine_leader{{{OPERATOR}}}": "1x10 0x50"}, 12, 13),
    Case(
        "UltramarineTwoLeaders",
        {f"ultramarine_leader{{{OPERATOR}}}": "1x60", f'ultramarine_leader{{{OPERATOR[:-2]}b"}}': "0x10 1x50"},
        12,
        13,
    ),
    Case("UltramarineNotReady", {f"ultramarine_ready{{{OPERATOR}}}": "1x10 0x50"}, 20, 21),
    Case("UltramarineQueueOld", {f"ultramarine_queue_age_seconds{{{OPERATOR}}}": "120x10 121x50"}, 15, 16),
    Case("UltramarineBug", passes("bug", "0x10 1x50"), 10, 11),
    Case("UltramarinePassesFail", passes("refused", "0x10 0+1x60"), 35, 38),
    Case(
        "UltramarineForbidden",
        {f'ultramarine_api_requests_total{{{OPERATOR},kind="Job",verb="create",code="403"}}': "0x10 0+1x60"},
        20,
        22,
    ),
    Case("UltramarineListingRefused", {f"ultramarine_listings_refused{{{OPERATOR}}}": "0x10 1x50"}, 30, 31),
    Case(
        "UltramarineAPIUnanswered",
        {f'ultramarine_api_requests_total{{{OPERATOR},kind="Job",verb="create",code="none"}}': "0x10 0+4x60"},
        26,
        30,
    ),
    Case(
        "UltramarineStorageUnanswered",
        {f'ultramarine_storage_questions_total{{{OPERATOR},outcome="Unreachable"}}': "0x10 0+1x60"},
        25,
        27,
    ),
    Case(
        "UltramarineGatewayUnanswered",
        {f'ultramarine_gateway_questions_total{{{OPERATOR},outcome="NoGateway"}}': "0x10 0+1x60"},
        25,
        27,
    ),
    Case(
        "UltramarineEndpointsNotReady",
        {f'ultramarine_objects{{{OPERATOR},kind="OnlineEndpoint",state="NotReady"}}': "0x10 1x50"},
        25,
        26,
    ),
    Case("UltramarineJobsFail", ended("0 1 2 3 4x5 5x60", "0x60"), 8, 11),
    Case(
        "UltramarineEndpointErrors",
        {
            f'envoy_http_downstream_rq{{{GATEWAY},code="5xx"}}': "0x10 0+6x60",
            f"envoy_http_downstream_rq_total{{{GATEWAY}}}": "0+100x60",
        },
        20,
        26,
    ),
    Case(
        "UltramarineEndpointCertificateEnds",
        # Time begins at 0; after ten minutes a week is left.
        {f'envoy_listener_ssl_certificate_expiration_unix_time_seconds{{{GATEWAY},certificate="c"}}': "605400x60"},
        20,
        21,
    ),
    Case(
        "UltramarineCertificateEnds",
        {f"ultramarine_certificate_expiration_timestamp_seconds{{{OPERATOR}}}": "605400x60"},
        20,
        21,
    ),
    Case(
        "UltramarineVolumeFull",
        {
            f"kubelet_volume_stats_available_bytes{{{VOLUME}}}": "11x10 9x50",
            f"kubelet_volume_stats_capacity_bytes{{{VOLUME}}}": "100x60",
        },
        20,
        21,
    ),
    Case("UltramarineListingOld", {f"ultramarine_listing_age_seconds{{{OPERATOR}}}": "1200x10 1201x50"}, 15, 16),
    Case("UltramarineWatchOld", {f'ultramarine_watch_age_seconds{{{OPERATOR},kind="Job"}}': "420x10 421x50"}, 15, 16),
    Case("UltramarineRestarts", {f"process_start_time_seconds{{{OPERATOR}}}": "1x8 2 3 4x50"}, 10, 11),
]
# What must not alert anybody: an ordinary day.
WELL = {
    **passes("refused", "0+1x2 2x90"),
    **ended("0+1x20 20x70", "0+2x20 40x70"),
    f"ultramarine_leader{{{OPERATOR}}}": "1x90",
    f"ultramarine_ready{{{OPERATOR}}}": "1x90",
    f"ultramarine_queue_age_seconds{{{OPERATOR}}}": "0x10 500x4 0x80",
    f'ultramarine_storage_questions_total{{{OPERATOR},outcome="Unreachable"}}': "0x10 9x80",
    f'ultramarine_storage_questions_total{{{OPERATOR},outcome="NotFound"}}': "0+5x90",
    f'ultramarine_objects{{{OPERATOR},kind="OnlineEndpoint",state="NotReady"}}': "0x10 1x14 0x70",
    f'envoy_http_downstream_rq{{{GATEWAY},code="5xx"}}': "0x10 5x80",
    f"envoy_http_downstream_rq_total{{{GATEWAY}}}": "0x10 5x80",
    f"process_start_time_seconds{{{OPERATOR}}}": "1x10 2x10 3x70",
    f"kubelet_volume_stats_available_bytes{{{VOLUME}}}": "11x90",
    f"kubelet_volume_stats_capacity_bytes{{{VOLUME}}}": "100x90",
}


def group(name: str, series: dict[str, str], firing: dict[int, int], alert: str = ".+") -> dict[str, object]:
    """A group of promtool's tests: how many alerts fire at which minute."""
    expr = f'count(ALERTS{{alertname=~"{alert}",alertstate="firing"}}) or vector(0)'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": count}]}
            for minute, count in firing.items()
        ],
    }


def test_each_alert_fires_when_its_time_is_over_and_not_before(tmp_path: Path) -> None:
    """Each with series of its own; and none on an ordinary day, or for four jobs that fail after many."""
    build.ensure(("promtool",))
    assert [case.alert for case in CASES] == NAMES
    groups = [group(case.alert, case.series, {case.quiet: 0, case.fires: 1}, case.alert) for case in CASES]
    groups.append(group("an ordinary day", WELL, dict.fromkeys(range(0, 91, 5), 0)))
    four = ended("10x70 11 12 13 14x60", "0x140")
    groups.append(group("four failures", four, dict.fromkeys(range(70, 140), 0), "UltramarineJobsFail"))
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": groups}))
    done = subprocess.run(
        [str(programs.path("promtool")), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
