"""Savings of early termination in a real training, and its cost to the result.

Small networks learn the digits of scikit-learn, shifted to have more of them (bench/digits.py). Each policy gets the
same 60 random choices of learning rate, penalty and width, each for 27 epochs. All seeds are fixed, so a trial that
is not stopped has the same accuracy with each policy. A policy has lost something exactly if its best accuracy is
below that of the sweep without any. Run it by `make sweep-early`.

Steps are the epochs that each trial has printed, from the journal in the bucket. They include those that a trial ran
until it heard of its end. CPU is that of all processes of the worker pods. A good part of it is Python's start with
scikit-learn, 0.8 s for each trial, which no policy saves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from conftest import Platform
from pods import sampling
from sights import table
from swept import Came, Manifest, here, installed, run
from ultramarine_sweep.state.trial import SUCCEEDED

EPOCHS = 27
SPACE: Manifest = {
    "lr": {"logUniform": {"min": 1e-5, "max": 1e-1}},
    "alpha": {"logUniform": {"min": 1e-6, "max": 1e-1}},
    "hidden": {"logInt": {"min": 4, "max": 128}},
}
RUNGS = {"minSteps": 1, "maxSteps": EPOCHS, "reductionFactor": 3}
POLICIES: dict[str, Manifest | None] = {
    "none": None,
    "median": {"type": "median", "delayEvaluation": 3},
    "asha": {"type": "asha", **RUNGS},
    "hyperband": {"type": "hyperband", **RUNGS},
}


def learning(name: str, policy: Manifest | None, trials: int, parallel: int, seed: int) -> Manifest:
    """Return a sweep over networks with that policy."""
    command = ["python", "digits.py", f"--epochs={EPOCHS}", *(f"--{param}=$(params.{param})" for param in SPACE)]
    # One thread each: otherwise two parallel trials would compete for cores.
    template: dict[str, Any] = {
        "source": {"inline": {"digits.py": (Path(__file__).parent / "digits.py").read_text()}},
        "command": command,
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}},
    }
    spec: Manifest = {
        "objective": {"metric": "accuracy", "goal": "maximize"},
        "algorithm": {"type": "random", "seed": seed},
        "searchSpace": SPACE,
        "limits": {"maxTrials": trials, "parallelTrials": parallel},
        "trialTemplate": {"spec": template},
    }
    return {
        "kind": "Sweep",
        "metadata": {"name": name},
        "spec": spec | ({"earlyTermination": policy} if policy else {}),
    }


def steps(came: Came) -> int:
    """Return the number of epochs in total."""
    return sum(max(trial.points.last_step, 0) for trial in came.trials.values())


def measured(on: Platform, name: str, manifest: Manifest) -> tuple[Came, float]:
    """Run a sweep; return its outcome, and the CPU seconds of its workers' pods."""
    selector = f"ultramarine.dev/kind=Sweep,ultramarine.dev/name={name}"
    uids: list[str] = []

    def workers() -> list[str]:
        if len(uids) < manifest["spec"]["limits"]["parallelTrials"]:
            pods = on.get("pod", "", "-l", selector)
            uids[:] = [pod["metadata"]["uid"] for pod in pods if "-workers-" in pod["metadata"]["name"]]
        return uids

    with sampling(workers) as sampled:
        came = run(on, manifest)
    on.delete("sw", name)
    return came, sum(sampled.cpu.values())


def check(came: Came, trials: int, reference: Came) -> None:
    """Check that all trials have ended as expected, and that completed ones have the same result as without the policy.

    Raises AssertionError.
    """
    assert sorted(came.trials) == list(range(trials)), f"{len(came.trials)} trials, not {trials}"
    assert came.status["trials"]["failed"] == 0, came.status["trials"]
    for number, trial in came.trials.items():
        other = reference.trials[number]
        assert trial.params == other.params, f"trial {number} has other parameters than without a policy"
        if trial.outcome == SUCCEEDED:
            assert (trial.values, trial.points.last_step) == (other.values, EPOCHS), f"trial {number}: {trial.values}"
    best = max(trial.values[0] for trial in came.trials.values() if trial.outcome == SUCCEEDED)
    assert came.status["best"][0]["values"]["accuracy"] == best, came.status["best"][0]


def row(title: str, came: Came, cpu: float, reference: Came) -> dict[str, str]:
    """Return a row of the table."""
    best, most = came.status["best"][0], reference.status["best"][0]
    counts = came.status["trials"]
    return {
        "earlyTermination": title,
        "best accuracy": f"{best['values']['accuracy']:.4f}, trial {best['trial']}",
        "of the best without": "equal"
        if best["values"] == most["values"]
        else f"{best['values']['accuracy'] - most['values']['accuracy']:+.4f}",
        "epochs run": f"{steps(came):,} = {steps(came) / steps(reference):.0%}",
        "trials stopped": f"{counts['stopped']} of {len(came.trials)}",
        "the trials' time": f"{sum(trial.seconds for trial in came.trials.values()):.0f} s",
        "CPU of the workers": f"{cpu:.0f} s",
        "first start -> last end": f"{came.span:.0f} s",
        "apply -> Succeeded": f"{came.took:.0f} s",
    }


def main() -> None:
    """Run the sweep with each policy in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60, help="of each sweep (default 60)")
    parser.add_argument("--parallel", type=int, default=2, help="parallelTrials (default 2)")
    parser.add_argument("--seed", type=int, default=7, help="of the random choices (default 7)")
    parser.add_argument("--policies", default=",".join(POLICIES), help=f"beside none (default {','.join(POLICIES)})")
    chosen = parser.parse_args()
    names = ["none", *(name for name in chosen.policies.split(",") if name != "none")]
    came: dict[str, Came] = {}
    rows = []
    with installed() as (on, _):
        machine = here(on)
        for policy in names:
            name = f"early-{policy}"
            manifest = learning(name, POLICIES[policy], chosen.trials, chosen.parallel, chosen.seed)
            came[policy], cpu = measured(on, name, manifest)
            check(came[policy], chosen.trials, came["none"])
            rows.append(row(policy, came[policy], cpu, came["none"]))
            print(f"  {policy}: {json.dumps(rows[-1])}", flush=True)
    print(f"\n{machine}; the same {chosen.trials} choices, {EPOCHS} epochs, {chosen.parallel} at once\n\n{table(rows)}")


if __name__ == "__main__":
    main()
