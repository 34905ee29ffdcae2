"""Test material of Sweep."""

from ultramarine_contract.cache_records import ANNOTATION_CACHE

from ....shared.testing import Material, Neighbour, applied
from ..registration import LABEL_SWEEP_UID
from .lives import LIVES
from .rules import RULES
from .samples import SAMPLES, WHOLE, complete, searching

MATERIAL = Material(
    kind="Sweep",
    whole=WHOLE,
    least=searching("a")["spec"],
    defaults={
        "objective": {"goal": "minimize"},
        "algorithm": {"type": "tpe", "seed": 0},
        "canaryTrial": False,
        "execution": "Pool",
        "keepOutputs": 1,
        "suspend": False,
        "cancel": False,
        "trialTemplate": {"spec": {"nodes": 1, "suspend": False, "cancel": False, "backoffLimit": 3}},
    },
    edit={"ttlSecondsAfterFinished": 86400},
    free=(
        {"suspend": True, "ttlSecondsAfterFinished": None, "limits": {"parallelTrials": 2}},
        {"cancel": True},
        {"trialTemplate": {"spec": {"pendingDeadlineSeconds": 120}}},
    ),
    rules=RULES,
    lives=LIVES,
    samples=SAMPLES,
    complete=complete,
    borrowed=("spec", "trialTemplate", "spec"),
    neighbour=Neighbour(
        lambda name, _: applied("Sweep", name, searching(name)["spec"]),
        children=(("Job", "NAME-coordinator"), ("Job", "NAME-workers")),
        pods=(
            ("NAME-coordinator-abcde", ("Job", "NAME-coordinator")),
            ("NAME-workers-0-abcde", ("Job", "NAME-workers")),
        ),
    ),
    final=("Succeeded", "Failed", "Cancelled", "Stopped"),
    labels=(LABEL_SWEEP_UID,),
    annotations=(ANNOTATION_CACHE,),
)
