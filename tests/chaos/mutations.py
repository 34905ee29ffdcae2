"""Ways to break the operator on purpose: each is called in the operator's process before it starts."""

from __future__ import annotations

import asyncio
import importlib
import itertools
from dataclasses import replace
from datetime import datetime
from typing import Any

from ultramarine_contract.meta import TRAINING_JOB, Ref
from ultramarine_operator.engine import engine, lease, mirror, queue
from ultramarine_operator.kinds.model import deleting
from ultramarine_operator.kinds.onlineendpoint.deployment import pools
from ultramarine_operator.kinds.onlineendpoint.routing.gateway import GatewayRouting
from ultramarine_operator.kinds.sweep import podpertrial
from ultramarine_operator.kube.client import Client
from ultramarine_operator.runs import JobView, queues, registration
from ultramarine_operator.shared.plan import Plan, Seen

plan: Any = importlib.import_module(
    "ultramarine_operator.kinds.trainingjob.plan"
)  # its package has a function of that name
sweep_plan: Any = importlib.import_module("ultramarine_operator.kinds.sweep.plan")


def numbers_are_no_compare_and_swap() -> None:
    """A version gets a number that nobody can have taken, so no create is ever refused."""
    numbers = itertools.count()
    registration._newest = lambda *_: next(numbers)


def older_versions_are_news() -> None:
    """The mirror takes in what is older than what it has."""
    numbers = itertools.count(1)
    mirror._version = lambda _: next(numbers)


def nothing_is_listed_again() -> None:
    """No listing but the first one."""
    engine.RELIST_SECONDS = engine.SECOND_LISTING_SECONDS = 1e9


def deletes_have_no_preconditions() -> None:
    """A delete hits whatever has the name now."""

    async def delete(self: Client, ref: Ref) -> None:
        path = ref.resource.path(ref.namespace, ref.name)
        await self._request("delete", "DELETE", ref.resource, path, body={"kind": "DeleteOptions", "apiVersion": "v1"})

    Client.delete = delete  # type: ignore[method-assign]


def a_failure_is_final() -> None:
    """A pass that the API server refused is not tried again."""

    def failed(self: queue.Queue, key: Any, at_least: float = 0.0) -> float:
        self.done(key)
        return 0.0

    queue.Queue.failed = failed  # type: ignore[method-assign]


def the_lease_is_ignored() -> None:
    """Every replica leads at once, and for ever."""

    async def acquire(self: lease.Lease) -> None:
        return None

    async def keep(self: lease.Lease) -> None:
        await asyncio.Event().wait()

    lease.Lease.time_left = lambda self: 1e9  # type: ignore[method-assign]
    lease.Lease.acquire, lease.Lease.keep = acquire, keep  # type: ignore[method-assign]


def a_job_is_given_up_before_its_status_says_so() -> None:
    """The Job that is not worth waiting for is deleted by the very pass that says so."""
    give_up = plan._give_up

    def at_once(job: Any, verdict: Any, child: JobView, facts: Any, now: datetime) -> Plan:
        return replace(give_up(job, verdict, child, facts, now), delete=(child.ref,))

    plan._give_up = at_once


def pods_go_before_the_gateway_has_let_go_of_them() -> None:
    """A deployment that leaves the spec is deleted at once, though gateway pods still route to it."""
    step = GatewayRouting.step
    GatewayRouting.step = lambda self, judged: replace(step(self, judged), needed=frozenset())  # type: ignore[method-assign]


def a_queue_is_no_reason_to_wait() -> None:
    """The operator decides if a queued Job runs, as for any other Job."""
    queues.is_queued = lambda _: False  # type: ignore[assignment]
    queues.LABEL_QUEUE = ""


def artifacts_go_though_they_are_served() -> None:
    """The artifact of a deleted version is deleted at once, though a pod serves it."""
    deleting.server_of = lambda *_: ""


def a_token_is_exchanged_in_one_pass() -> None:
    """Both Jobs of a sweep are deleted at once, and with the first one maybe all that shows that a token is missing."""
    without_token = sweep_plan.without_token
    sweep_plan.without_token = lambda sweep, own: own.jobs if without_token(sweep, own) else []


def a_pool_forgets_what_it_had() -> None:
    """A Model without a ready version now leaves the list of its pool."""
    pools._current_catalogue = lambda *_: {}


def trials_that_have_ended_go() -> None:
    """The job of a trial is deleted when it has ended, so a coordinator that forgot that has it run again."""
    going_on = sweep_plan._going_on

    def without_them(sweep: Any, seen: Seen, search: Any, own: Any, facts: Any, now: datetime) -> Plan:
        made: Plan = going_on(sweep, seen, search, own, facts, now)
        over = [job for job in own.trials if podpertrial.is_over(job)]
        return replace(made, delete=(*made.delete, *(Ref.to(TRAINING_JOB, job) for job in over)))

    sweep_plan._going_on = without_them
