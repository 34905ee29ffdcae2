"""Every algorithm and every end of a sweep on the real cluster, many sweeps at once: each is a pod or two."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Platform, condition
from manifests import Manifest, sweep
from test_sweep import ended

pytestmark = pytest.mark.slow

SPACE = {
    "x": {"uniform": {"min": 0, "max": 6, "step": 1.5}},
    "booster": {"choice": ["tree", "dart"]},
    "drop": {"int": {"min": 1, "max": 2}, "when": {"booster": ["dart"]}},
    "rows": {"constant": 7},
}
SCORE = 'awk -v x=$(params.x) \'BEGIN { print "loss=" (x - 3) * (x - 3); print "size=" x }\'; echo rows=$(params.rows)'
TRIAL = ["sh", "-c", f"{SCORE} # $0 $1", "$(params.booster)", "$(params.drop)"]
BOTH = [{"metric": "loss", "goal": "minimize"}, {"metric": "size", "goal": "minimize"}]
TRIALS = 10
FLOOD = "import sys; sys.stdout.writelines(f'loss={i}\\n' for i in range(1_000_000, 0, -1))"
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('loss=1', flush=True); time.sleep(600)"
)


def searching(name: str, algorithm: Manifest, **spec: Any) -> Manifest:
    """A sweep with a condition and a constant among its parameters."""
    limits = {"maxTrials": TRIALS, "parallelTrials": 1}
    return sweep(name, TRIAL, searchSpace=SPACE, algorithm={"seed": 5, **algorithm}, limits=limits, **spec)


def alone(name: str, *command: str, limits: Manifest | None = None, **spec: Any) -> Manifest:
    """A sweep by one worker."""
    return sweep(name, list(command), limits={"maxTrials": 4, "parallelTrials": 1, **(limits or {})}, **spec)


def test_every_algorithm_searches(platform: Platform):
    """All seven, with a condition and a constant; one that starts warm waits for the sweep that it learns from."""
    sweeps = {f"by-{type}": searching(f"by-{type}", {"type": type}) for type in ("random", "grid", "sobol", "tpe")}
    sweeps |= {f"by-{type}": searching(f"by-{type}", {"type": type}) for type in ("gp", "cmaes")}
    sweeps["by-nsga2"] = searching("by-nsga2", {"type": "nsga2"}, objective=None, objectives=BOTH)
    sweeps["by-others"] = searching("by-others", {"type": "tpe", "warmStartFrom": ["by-tpe"]})
    for each in sweeps.values():
        each["spec"] = {name: value for name, value in each["spec"].items() if value is not None}
    platform.apply(*sweeps.values())
    platform.wait("sw", "by-others", lambda s: condition(s, "Running").get("reason") == "WarmStartUnfinished")

    for name in sweeps:
        done = ended(platform, name, 300)
        assert (done["state"], done["trials"]["succeeded"]) == ("Succeeded", TRIALS), (name, done)
        for best in done["best"]:
            assert best["params"]["rows"] == 7
            assert ("drop" in best["params"]) == (best["params"]["booster"] == "dart"), (name, best)
            assert best["values"]["loss"] == (best["params"]["x"] - 3) ** 2, (name, best)
        assert done["report"]["uri"].endswith("/report.html")
    log = platform.kubectl("logs", "job/by-others-coordinator")
    assert f"known trials of other sweeps: {TRIALS}" in log


def test_every_end_is_told(platform: Platform):
    """Limits, the budget, and scripts that do not do what they should: each sweep ends by itself and says why."""
    sleeps = ("sh", "-c", "echo loss=$(params.x); sleep 2")
    for_ever = ("sh", "-c", "echo loss=$(params.x); sleep 600")
    found = {"metric": "loss", "stopAt": 10}  # any of them
    cpu = {"resources": {"requests": {"cpu": "300m"}}}
    fails = ("sh", "-c", "echo no such file >&2; exit 3")
    killed = ("sh", "-c", "kill -9 $$")
    expected = {
        "end-found": (alone("end-found", *sleeps, objective=found), "Succeeded", "ObjectiveReached"),
        "end-spent": (
            alone("end-spent", *sleeps, limits={"maxTrials": 90}, budget={"cpuHours": 0.001}, template=cpu),
            "Succeeded",
            "BudgetSpent",
        ),
        "end-timed": (
            alone("end-timed", *sleeps, limits={"maxTrials": 90}, budget={"seconds": 8}, template=cpu),
            "Succeeded",
            "BudgetSpent",
        ),
        "end-late": (alone("end-late", *for_ever, activeDeadlineSeconds=15), "Failed", "DeadlineExceeded"),
        "end-slow": (
            alone("end-slow", "python", "-c", DEAF, limits={"maxTrials": 2, "trialTimeoutSeconds": 2}),
            "Failed",
            "NoTrialSucceeded",
        ),
        "end-fails": (
            alone("end-fails", *fails, limits={"maxTrials": 90, "maxFailedTrials": 2}),
            "Failed",
            "MaxFailedTrialsReached",
        ),
        "end-silent": (alone("end-silent", "sh", "-c", "echo los=1"), "Failed", "MetricNotReported"),
        "end-nan": (alone("end-nan", "sh", "-c", "echo loss=nan"), "Failed", "NoTrialSucceeded"),
        "end-killed": (alone("end-killed", *killed, canaryTrial=True), "Failed", "CanaryFailed"),
        "end-flood": (alone("end-flood", "python", "-c", FLOOD, limits={"maxTrials": 2}), "Succeeded", None),
    }
    platform.apply(*(manifest for manifest, _, _ in expected.values()))
    done = {name: ended(platform, name, 300) for name in expected}
    for name, (_, state, reason) in expected.items():
        why = condition(done[name], "Succeeded")
        assert (done[name]["state"], reason or why["reason"]) == (state, why["reason"]), (name, done[name])
    assert done["end-spent"]["budgetUsed"]["cpuHours"] >= 0.001
    assert done["end-fails"]["failure"] | {"hint": "", "message": ""} == {
        "reason": "MaxFailedTrialsReached",
        "exitCode": 3,
        "pod": done["end-fails"]["failure"]["pod"],
        "tail": "no such file",
        "message": "",
        "hint": "",
    }
    assert "they printed los" in done["end-silent"]["failure"]["message"]
    assert done["end-killed"]["trials"]["failed"] == 2
    assert done["end-flood"]["best"][0]["values"] == {"loss": 1.0}
    assert done["end-slow"]["trials"]["failed"] == 2
