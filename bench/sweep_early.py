"""What early termination saves of a real training, and what it costs of the result.

Small networks learn the digits of scikit-learn, which are nudged to have more of them (bench/digits.py): the same 60
random choices of learning rate, penalty and width for each policy, each for 27 epochs. All chance is fixed, so a trial
that is not stopped comes to the same accuracy whatever the policy is: a policy has lost something exactly where its
best accuracy is below that of the sweep without any. Run it by `make sweep-early`.

Steps are epochs that were run, by the last one that each trial has printed, as the journal in the bucket has it: those
too that a trial still ran until it heard that it should stop. CPU is that of all processes of the worker pods;
a good part of it is Python's start with scikit-learn, 0.8 s for each trial, which no policy saves.
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
from ultramarine_sweep.trial import SUCCEEDED

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
    """A sweep over networks with that policy."""
    command = ["python", "digits.py", f"--epochs={EPOCHS}", *(f"--{param}=$(params.{param})" for param in SPACE)]
    # One thread each: two trials at once would else take each other's cores, and take them again as they give up.
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
    """How many epochs were run in all."""
    return sum(max(trial.points.last_step, 0) for trial in came.trials.values())


def measured(on: Platform, name: str, manifest: Manifest) -> tuple[Came, float]:
    """Run a sweep; what it came to, and the seconds of CPU that its workers' pods took."""
    selector = f"ultramarine.dev/kind=Sweep,ultramarine.dev/name={name}"
    uids: list[str] = []

    def workers() -> list[str]:
        if len(uids) < manifest["spec"]["limits"]["parallelTrials"]:
            found = on.get("pod", "", "-l", selector)
            uids[:] = [pod["metadata"]["uid"] for pod in found if "-workers-" in pod["metadata"]["name"]]
        return uids

    with sampling(workers) as sampled:
        came = run(on, manifest)
    on.delete("sw", name)
    return came, sum(sampled.cpu.values())


def check(came: Came, trials: int, reference: Came) -> None:
    """See that all trials have ended as they should, and that those which ran to their end came to the same.

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
    """A row of the table."""
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
    """Run the sweep with each policy, one after another, and print the table."""
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
        told = here(on)
        for policy in names:
            name = f"early-{policy}"
            manifest = learning(name, POLICIES[policy], chosen.trials, chosen.parallel, chosen.seed)
            came[policy], cpu = measured(on, name, manifest)
            check(came[policy], chosen.trials, came["none"])
            rows.append(row(policy, came[policy], cpu, came["none"]))
            print(f"  {policy}: {json.dumps(rows[-1])}", flush=True)
    print(f"\n{told}; the same {chosen.trials} choices, {EPOCHS} epochs, {chosen.parallel} at once\n\n{table(rows)}")


if __name__ == "__main__":
    main()
