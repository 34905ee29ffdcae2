"""Search of a Sweep: where it searches, how many trials there can be, and the sweeps that it learns from."""

from __future__ import annotations

from dataclasses import dataclass

from ultramarine.resources.sweep import MAX_TRIALS
from ultramarine.resources.trainingjob import MAX_PARAMETERS
from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import Manifest
from ultramarine_contract.parameters import MOST_PODS
from ultramarine_contract.searchgrid import Grid, check_algorithm
from ultramarine_contract.searchspace import Space, read_points, read_space

from ...shared import states
from ...shared.conditions import ENDED
from ...shared.plan import Platform, Seen
from .manifests import Sweep, has_pod_per_trial, max_trials, objectives, prefix_of


@dataclass(frozen=True)
class Search:
    """Space of the search, and the maximum number of trials (0: no limit)."""

    space: Space
    most: int


def search_of(sweep: Sweep, platform: Platform) -> Search:
    """Return the search that a spec asks for. Raises InvalidSpec for one that no sweep can do."""
    space = read_space(sweep.manifest["spec"]["searchSpace"])
    type, early = sweep.spec.algorithm.type, sweep.spec.early_termination is not None
    check_algorithm(space, type, len(objectives(sweep)), early)
    first = read_points(space, sweep.spec.algorithm.initial_trials)
    if sweep.name in sweep.spec.algorithm.warm_start_from:
        message = f"spec.algorithm.warmStartFrom names {sweep.name} itself; make it again without that"
        raise InvalidSpec(message)
    search = Search(space, max_trials(sweep, Grid(space).size if type == "grid" else None))
    if first and type == "grid":
        message = "spec.algorithm.initialTrials: a grid tries each combination anyway; leave them out"
        raise InvalidSpec(f"{message}, or choose another algorithm")
    if search.most and len(first) > search.most:
        message = f"spec.algorithm.initialTrials has {len(first)} trials, and the sweep at most {search.most}"
        raise InvalidSpec(f"{message}; raise limits.maxTrials, or remove some")
    if has_pod_per_trial(sweep) and search.most > MOST_PODS:
        message = f"the grid of spec.searchSpace has {search.most} points, and execution PodPerTrial {MOST_PODS} trials"
        raise InvalidSpec(f"{message} at most; set limits.maxTrials, or let a Pool run them")
    if search.most > MAX_TRIALS:
        message = f"the grid of spec.searchSpace has {search.most} points, and a Sweep {MAX_TRIALS} trials at most; set"
        raise InvalidSpec(f"{message} limits.maxTrials, which takes a sample of them, or take values away")
    if both := sorted(sweep.spec.trial_template.spec.parameters.keys() & {*space.names}):
        message = f"{listed(both)} in spec.searchSpace and in spec.trialTemplate.spec.parameters"
        raise InvalidSpec(f"{message}; give each parameter in one of them")
    names = {*sweep.spec.trial_template.spec.parameters, *space.names}
    if has_pod_per_trial(sweep) and len(names) > MAX_PARAMETERS:
        # Otherwise each trial's job would be refused, forever.
        message = f"spec.searchSpace and spec.trialTemplate.spec.parameters have {len(names)} parameters together, and"
        raise InvalidSpec(f"{message} a TrainingJob {MAX_PARAMETERS} at most; leave some out, or let a Pool run them")
    if has_pod_per_trial(sweep) and not platform.progress_url:
        message = "spec.execution: PodPerTrial needs coordinators that reach the operator; set progress.enabled in the"
        raise InvalidSpec(f"{message} chart, or let a Pool run the trials")
    return search


def warm_start_of(sweep: Sweep, seen: Seen) -> tuple[tuple[str, ...], states.State | None]:
    """Return the prefixes of the sweeps that it learns from; or the state while one is missing, or still runs.

    The status remembers the prefixes: those sweeps may be deleted, and what they have stored stays.
    """
    names, platform = sweep.spec.algorithm.warm_start_from, seen.platform
    if not names:
        return (), None
    below = f"s3://{platform.storage_bucket}/{sweep.namespace}/sweeps/"
    former = sweep.status.get("warmStart") or []
    if len(former) == len(names) and all(
        uri.startswith(f"{below}{name}/") and uri.endswith("/") for name, uri in zip(names, former, strict=True)
    ):
        return tuple(former), None
    others = {other["metadata"]["name"]: other for other in seen.others("Sweep")}
    if missing := [name for name in names if name not in others]:
        remedy = "create it, or make this one again without it in spec.algorithm.warmStartFrom"
        return (), states.pending("WarmStartMissing", f"Sweep {missing[0]} not found in {sweep.namespace}; {remedy}")
    own_goals = _goals(sweep.manifest)
    for name in names:
        if (goals := _goals(others[name])) != own_goals:
            message = f"spec.algorithm.warmStartFrom: Sweep {name} is to {goals} and this one to {own_goals}, so its"
            raise InvalidSpec(
                f"{message} trials say nothing here; name sweeps with the same objectives, or leave it out"
            )
    for name in names:
        if (others[name].get("status") or {}).get("state") not in ENDED:
            message = f"Sweep {name}, whose trials spec.algorithm.warmStartFrom takes for known, has not ended yet"
            return (), states.pending("WarmStartUnfinished", message)
    return tuple(prefix_of(platform, sweep.namespace, name, others[name]["metadata"]["uid"]) for name in names), None


def _goals(manifest: Manifest) -> str:
    """Describe the objectives of a Sweep."""
    spec = manifest["spec"]
    objectives = spec.get("objectives") or [spec["objective"]]
    return ", ".join(f"{objective.get('goal', 'minimize')} {objective['metric']}" for objective in objectives)
