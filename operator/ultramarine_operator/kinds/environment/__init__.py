"""Environment: Python packages, built once, for pods that run a user's code."""

from __future__ import annotations

from ultramarine.resources.environment import EnvironmentSpec, EnvironmentStatus
from ultramarine_contract.meta import CONFIG_MAP, ENVIRONMENT, JOB, ONLINE_ENDPOINT, POD, SWEEP, TRAINING_JOB

from ...shared.environments import topic_of
from ...shared.kind import PLAIN_NAME, READY, Column, Kind, PodGroup
from .plan import plan, questions

USERS = (TRAINING_JOB, SWEEP, ONLINE_ENDPOINT)

KIND = Kind(
    short="env",
    description="Environment is a set of Python packages that is built once and unpacked in pods that need it.",
    spec=EnvironmentSpec,
    status=EnvironmentStatus,
    columns=(
        READY,
        Column("State", ".status.state"),
        Column("Python", ".status.pythonVersion"),
        Column("Packages", ".status.lock.packages", "integer"),
        Column("Size", ".status.size"),
        Column("Unused", ".status.unusedSince", "date"),
        Column("Seconds", ".status.buildSeconds", "integer", priority=1),
        Column("Uri", ".status.uri", priority=1),
    ),
    plan=plan,
    questions=questions,
    children=(JOB, POD, CONFIG_MAP),
    related=USERS,
    rung_by_edits=USERS,
    topics=lambda environment: frozenset({topic_of(environment["metadata"]["name"])}),
    names=PLAIN_NAME,
    deletes=(ENVIRONMENT, JOB, CONFIG_MAP),
    pods=(PodGroup("building", outside=True),),
)
