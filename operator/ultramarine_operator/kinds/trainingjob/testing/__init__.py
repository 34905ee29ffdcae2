"""Test material of TrainingJob."""

from ultramarine_contract.cache_records import ANNOTATION_CACHE

from ....shared.testing import Material, Neighbour, applied
from ....training.environment import ANNOTATION
from ..registration import LABEL_JOB_UID
from .lives import LIVES
from .rules import RULES
from .samples import SAMPLES, WHOLE, complete

MATERIAL = Material(
    kind="TrainingJob",
    whole=WHOLE,
    least={"command": ["a"]},
    defaults={"nodes": 1, "suspend": False, "cancel": False, "backoffLimit": 3},
    edit={"backoffLimit": 7},
    free=(
        {"suspend": True, "backoffLimit": 5, "activeDeadlineSeconds": 120, "ttlSecondsAfterFinished": None},
        {"pendingDeadlineSeconds": 120},
        {"cancel": True},
    ),
    rules=RULES,
    lives=LIVES,
    samples=SAMPLES,
    complete=complete,
    neighbour=Neighbour(
        lambda name, _: applied(
            "TrainingJob",
            name,
            {
                "source": {"inline": {"train.py": "print(1)"}},
                "command": ["true"],
                "outputs": {"model": {"registerAs": name}},
            },
        ),
        children=(("Job", "NAME"),),
        pods=(("NAME-0-abcde", ("Job", "NAME")),),
    ),
    final=("Succeeded", "Failed", "Cancelled", "Stopped"),
    labels=(LABEL_JOB_UID,),
    annotations=(ANNOTATION, ANNOTATION_CACHE),
)
