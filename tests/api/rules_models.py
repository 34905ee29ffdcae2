"""The rules of what people say about a Model, and of where a ModelVersion comes from; see rules.py."""

from __future__ import annotations

from rules import MODEL, VERSION, Rule, of_spec

RULES: list[Rule] = [
    of_spec(
        MODEL,
        "retention counts versions",
        {"retention": {"versions": 1}},
        {"retention": {"versions": None}},
        "spec.retention.versions: Required value",
    ),
    of_spec(
        MODEL,
        "one version is kept at least",
        {"retention": {"versions": 1}},
        {"retention": {"versions": 0}},
        "spec.retention.versions in body should be greater than or equal to 1",
    ),
    of_spec(
        MODEL,
        "a thousand are kept at most",
        {"retention": {"versions": 1000}},
        {"retention": {"versions": 1001}},
        "spec.retention.versions in body should be less than or equal to 1000",
    ),
    of_spec(
        MODEL,
        "an artifact goes or stays",
        {"deletionPolicy": "Delete"},
        {"deletionPolicy": "Recycle"},
        "spec.deletionPolicy: Unsupported value",
        '"Retain", "Delete"',
    ),
    *(
        of_spec(
            MODEL,
            f"a card's {name} ends",
            {"card": {name: "a" * most}},
            {"card": {name: "a" * (most + 1)}},
            f"spec.card.{name}: Too long: may not be more than {most}",
        )
        for name, most in (("owner", 253), ("license", 253), ("intendedUse", 4096), ("limitations", 4096))
    ),
    of_spec(
        VERSION,
        "a version's metrics are as many as a job's",
        {"lineage": {"metrics": {f"m{n}": 1.5 for n in range(19)}}},
        {"lineage": {"metrics": {f"m{n}": 1.5 for n in range(20)}}},
        "spec.lineage.metrics: Too many: 21: must have at most 20 items",
    ),
    of_spec(
        VERSION,
        "a metric is a number",
        {"lineage": {"metrics": {"loss": 0.5}}},
        {"lineage": {"metrics": {"loss": "0.5"}}},
        "spec.lineage.metrics.loss in body must be of type number",
    ),
    of_spec(
        VERSION,
        "a commit is an id",
        {"lineage": {"gitCommit": "a" * 64}},
        {"lineage": {"gitCommit": "a" * 65}},
        "spec.lineage.gitCommit: Too long: may not be more than 64",
    ),
]
