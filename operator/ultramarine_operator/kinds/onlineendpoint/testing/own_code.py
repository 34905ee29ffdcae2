"""Rules of own code in an OnlineEndpoint's API, with examples, and drawn specs of it."""

from __future__ import annotations

from collections.abc import Iterator

from ultramarine_contract.meta import Manifest

from ....shared.testing import Rule, clash
from ...trainingjob.testing.rules import RULES as RULES_OF_JOBS
from ...trainingjob.testing.samples import complete_pods, complete_source
from .rules import blue, pool

OF_PODS = {"env", "envFrom", "podTemplate", "resources"}
OTHER = ("spec.", "onOutOfMemory")  # in the words of rules on other fields of a job
SCRIPT: Manifest = {"source": {"inline": {"score.py": "def run(data): return data"}}}
# Words that are a part of two messages here.
WORDS = {"each key must be a label key": "each key must be a label key, such as topology"}


def _of_jobs() -> Iterator[Rule]:
    """Yield the rules of a TrainingJob on sources and pods, as rules of a deployment and its script."""
    for rule in RULES_OF_JOBS:
        specs = [patch.get("spec", {}) for patch in (rule.ok, *rule.bad)]
        fields = {field for spec in specs for field in spec}
        if (fields == {"source"} or (fields and fields <= OF_PODS)) and not any(words in rule.words for words in OTHER):
            ok, *bad = ({"spec": _deployment(spec)} for spec in specs)
            yield Rule(WORDS.get(rule.words, rule.words), ok, tuple(bad), rule.anywhere)


def _deployment(spec: Manifest) -> Manifest:
    if "source" not in spec:
        return blue(**spec)
    return blue(scoring={"source": spec["source"]}) if spec["source"] is not None else blue()


OWN_CODE_RULES: tuple[Rule, ...] = (
    *_of_jobs(),
    clash(
        "a pool's models share one server",
        pool(),
        *(
            {"deployments": [pool()["deployments"][0] | own]}
            for own in ({"scoring": SCRIPT}, {"environment": {"name": "a"}})
        ),
    ),
    clash(
        "environment.requirementsFile is a file of scoring.source",
        blue(environment={"requirementsFile": "requirements.txt"}, scoring=SCRIPT),
        blue(environment={"requirementsFile": "requirements.txt"}),
    ),
    clash(
        "AML_APP_ROOT and AZUREML_ENTRY_SCRIPT are set by the server",
        blue(scoring=SCRIPT, env=[{"name": "AZUREML_LOG_LEVEL", "value": "INFO"}]),
        *(
            blue(scoring=SCRIPT, env=[{"name": name, "value": "/mnt/model"}])
            for name in ("AZUREML_MODEL_DIR", "AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT")
        ),
    ),
    clash(
        "give one of name, requirements, requirementsFrom and requirementsFile",
        blue(environment={"name": "a"}),
        blue(environment={}),
        blue(environment={"name": "a", "requirements": ["lightgbm"]}),
    ),
)


def complete_own_code(deployment: Manifest) -> None:
    """Make the own code of a drawn deployment valid; a pool and a container have none."""
    complete_pods(deployment)
    if "pool" in deployment or "container" in deployment:
        deployment.pop("scoring", None)
        deployment.pop("environment", None)
    if "scoring" in deployment:
        deployment["scoring"]["source"] = complete_source(deployment["scoring"]["source"])
