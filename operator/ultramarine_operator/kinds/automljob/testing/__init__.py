"""Test material of AutoMLJob."""

from ....shared.testing import DIGEST, Material, Neighbour, applied, clash, named
from .lives import LIVES
from .samples import KIND, LEAST, SAMPLES, WHOLE, complete

MATERIAL = Material(
    kind=KIND,
    whole=WHOLE,
    least=LEAST,
    defaults={
        "metric": "auto",
        "validation": {"folds": 5},
        "limits": {"timeoutSeconds": 3600, "maxTrials": 200, "parallelTrials": 1},
        "ensemble": {"enabled": True},
        "suspend": False,
        "cancel": False,
    },
    edit={"ttlSecondsAfterFinished": 86400},
    free=({"suspend": True}, {"cancel": True}, {"ttlSecondsAfterFinished": None}),
    rules=(
        named("metadata.name must have at most 32", "a" * 32, "a" * 33),
        named("metadata.name must start with a letter", "a-b", "a.b", "1a"),
        clash(
            "give either uri or dataset",
            {"data": {"dataset": "churn@1", "uri": None, "digest": None}},
            {"data": {"dataset": "churn@1", "uri": "s3://lake/churn.csv", "digest": None}},
            {"data": {"dataset": None, "uri": None, "digest": None}},
        ),
        clash(
            "digest applies to uri",
            {"data": {"dataset": None, "uri": "s3://lake/churn.csv", "digest": DIGEST}},
            {"data": {"dataset": "churn@1", "uri": None, "digest": DIGEST}},
        ),
        clash(
            "a column's name has at most 128",
            {"features": {"types": {"a" * 128: "text"}}},
            {"features": {"types": {"a" * 129: "text"}}},
        ),
    ),
    lives=LIVES,
    samples=SAMPLES,
    complete=complete,
    neighbour=Neighbour(
        lambda name, _: applied(KIND, name, LEAST),
        children=(("TrainingJob", "NAME-prepare"), ("Job", "NAME-prepare")),
        pods=(("NAME-prepare-0-abcde", ("Job", "NAME-prepare")),),
    ),
    final=("Succeeded", "Failed", "Cancelled"),
)
