"""The rules of an OnlineEndpoint's rollout; see rules.py."""

from __future__ import annotations

from rules import ENDPOINT, NAME, Rule, of_spec

ANSWERS = "rollout.candidate answers requests already; remove rollout, or give its traffic to another deployment"
STEPS = "steps must rise and end with 100, such as [10, 50, 100]"
NO_GATE = {"errorRateIncrease": None, "clientErrorRateIncrease": None, "p99Ratio": None, "agreement": None}


def rolled(reason: str, accepted: dict[str, object], refused: dict[str, object], *words: str) -> Rule:
    """A rule about the rollout alone."""
    return of_spec(ENDPOINT, reason, {"rollout": accepted}, {"rollout": refused}, *words)


RULES: list[Rule] = [
    rolled(
        "a candidate has a name", {"candidate": "purple"}, {"candidate": "Purple"}, "spec.rollout.candidate: ", NAME
    ),
    rolled(
        "a candidate's name is short",
        {"candidate": "purple"},
        {"candidate": "a" * 41},
        "spec.rollout.candidate: Too long: may not be more than 40",
    ),
    rolled(
        "there are ten steps at most",
        {"steps": [1, 2, 3, 4, 5, 6, 7, 8, 9, 100]},
        {"steps": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100]},
        "spec.rollout.steps: Too many: 11: must have at most 10 items",
    ),
    *(
        rolled(f"steps {reason}", {"steps": [10, 50, 100]}, {"steps": steps}, "spec.rollout.steps: ", STEPS)
        for reason, steps in (("rise", [50, 10, 100]), ("differ", [10, 10, 100]), ("end with all", [10, 50]))
    ),
    *(
        rolled(
            f"gates say something, such as {gate}",
            {"gates": {**NO_GATE, gate: right}},
            {"gates": {**NO_GATE, "clientErrorRateIncrease": wrong}},
            "spec.rollout.gates: ",
            "give at least one of errorRateIncrease, clientErrorRateIncrease, p99Ratio and agreement",
        )
        for gate, right, wrong in (
            ("errorRateIncrease", 1, None),
            ("clientErrorRateIncrease", 0.5, 1),
            ("p99Ratio", 1, None),
            ("agreement", 1, None),
        )
    ),
    rolled(
        "gates compare",
        {"steps": [100], "gates": None},
        {"steps": [100]},
        "spec.rollout: ",
        "gates compare the candidate with the champion; give a step below 100, such as [10, 100]",
    ),
    rolled(
        "the candidate is one of the deployments",
        {"candidate": "purple"},
        {"candidate": "red"},
        "spec: ",
        "rollout.candidate names a deployment that spec.deployments does not have; correct the name or add the "
        "deployment",
    ),
    rolled("the candidate has no traffic", {"candidate": "green"}, {"candidate": "blue"}, "spec: ", ANSWERS),
    of_spec(
        ENDPOINT,
        "a rollout needs somebody who answers",
        {"rollout": None, "traffic": None, "mirrorTraffic": None, "deployments": [{"name": "purple", "model": "m@1"}]},
        {"traffic": None, "mirrorTraffic": None, "deployments": [{"name": "purple", "model": "m@1"}]},
        "spec: ",
        ANSWERS,
    ),
    of_spec(
        ENDPOINT,
        "the candidate gets no copies",
        {"mirrorTraffic": {"purple": 0}},
        {"mirrorTraffic": {"purple": 10}},
        "spec: ",
        "mirrorTraffic names rollout.candidate, and the copies would distort the gates; mirror to another deployment",
    ),
]
