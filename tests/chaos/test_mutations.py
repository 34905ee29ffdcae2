"""The harness sees: an engine that is broken on purpose does not keep the promise concerned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import test_promises as promises
from proxy import Fault
from rig import Rig

Check = Callable[[Rig, str], Awaitable[None]]
# By the mutation: the check of the promise that it breaks, and what that has to find.
MUTATIONS: dict[str, tuple[Check, str]] = {
    "numbers_are_no_compare_and_swap": (
        lambda rig, breaks: promises.registered_once(rig, "TrainingJob succeeds", "modelversions", breaks),
        "too much: ModelVersion/churn-2",
    ),
    "older_versions_are_news": (
        lambda rig, breaks: promises.unmoved(rig, promises.ECHO, promises.LIVES, breaks),
        "the end is another one|in vain|allowed|again",
    ),
    "nothing_is_listed_again": (lambda rig, breaks: promises.resynced(rig, promises.TRAINING[:1], breaks), "in vain"),
    "deletes_have_no_preconditions": (promises.spared, "a newer object was deleted"),
    "a_failure_is_final": (
        lambda rig, breaks: promises.tried_again(rig, Fault("answer", "write", nth=3, times=5, code=500), breaks),
        "in vain",
    ),
    "the_lease_is_ignored": (
        lambda rig, breaks: promises.one_writes(rig, promises.killed, breaks),
        "both write|they took turns|the other one leads",
    ),
    "a_job_is_given_up_before_its_status_says_so": (
        lambda rig, breaks: promises.live(
            rig, promises.named("finds no place"), [Fault("kill-after", "delete", "jobs", times=2)], breaks=breaks
        ),
        "was made . times, not 1",
    ),
    "pods_go_before_the_gateway_has_let_go_of_them": (
        lambda rig, breaks: promises.live(
            rig, promises.named("exchanges its deployment behind the gateway"), breaks=breaks
        ),
        "went while the gateway sent requests to its pods",
    ),
    "a_queue_is_no_reason_to_wait": (
        lambda rig, breaks: promises.live(rig, promises.named("waits in a queue"), breaks=breaks),
        "in vain: Running of TrainingJob churn says 'queue night",
    ),
    "artifacts_go_though_they_are_served": (
        lambda rig, breaks: promises.live(rig, promises.named("deletes its artifacts"), breaks=breaks),
        "in vain: ArtifactsDeleted of Model churn says 'churn-1 is still served",
    ),
    "a_token_is_exchanged_in_one_pass": (
        lambda rig, breaks: promises.live(
            rig, promises.named("loses its token"), [Fault("kill-after", "delete", "jobs")], breaks=breaks
        ),
        "in vain: all three pods run|another token than its coordinator",
    ),
    "trials_that_have_ended_go": (
        lambda rig, breaks: promises.live(rig, promises.named("loses jobs of trials"), breaks=breaks),
        "missing: TrainingJob/hpo-trial-1|was made 2 times, not 1",
    ),
    "a_pool_forgets_what_it_had": (
        lambda rig, breaks: promises.live(rig, promises.named("changes its catalogue"), breaks=breaks),
        "the list of a pool lost Model churn",
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_broken_engine_is_seen(rig: Rig, mutation: str) -> None:
    """The check of a promise fails where the engine is broken in the way that the promise forbids."""
    rig.patience = 30.0  # of the broken runs
    check, found = MUTATIONS[mutation]
    with pytest.raises(AssertionError, match=found):
        await check(rig, mutation)
