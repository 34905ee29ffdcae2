"""The rules of an endpoint's data collector; see rules.py."""

from __future__ import annotations

from typing import Any

from rules import DOTS, ENDPOINT, URI, Rule, of_spec
from ultramarine_contract.meta import Manifest

HERE = "s3://lake/team-a/kept/"


def kept(**fields: Any) -> Manifest:
    """A spec with these fields of dataCollector."""
    return {"dataCollector": fields}


def wanted(reason: str, accepted: Manifest, refused: Manifest, *words: str) -> Rule:
    """A rule of an OnlineEndpoint."""
    return of_spec(ENDPOINT, reason, accepted, refused, *words)


RULES: list[Rule] = [
    wanted(
        "a collector keeps something",
        kept(samplingRate=0.001),
        kept(samplingRate=0),
        "spec.dataCollector: ",
        "samplingRate must be larger than 0; leave dataCollector out to collect nothing",
    ),
    wanted("captures go to the storage", kept(uri=HERE), kept(uri="/mnt/kept/"), "spec.dataCollector.uri: ", URI),
    wanted(
        "the path of captures is plain",
        kept(uri="s3://lake/a.b/"),
        kept(uri="s3://lake/../"),
        "spec.dataCollector.uri: ",
        DOTS,
    ),
    wanted(
        "the path of captures ends",
        kept(uri="s3://lake/" + "a" * 789 + "/"),
        kept(uri="s3://lake/" + "a" * 1014 + "/"),
        "spec.dataCollector.uri: Too long: may not be more than 1024",
    ),
    wanted(
        "captures go to a folder",
        kept(uri="s3://lake/"),
        kept(uri="s3://lake/kept"),
        "spec.dataCollector: ",
        "uri must name a folder; end it with a slash",
    ),
    wanted(
        "the names of captures have room",
        kept(uri="s3://lake/" + "a" * 789 + "/"),
        kept(uri="s3://lake/" + "a" * 790 + "/"),
        "spec.dataCollector: ",
        "uri has more than 800 characters; choose a shorter folder, since names of files are appended to it",
    ),
    wanted(
        "64 names are left out at most",
        kept(redact=[f"n{number}" for number in range(64)]),
        kept(redact=[f"n{number}" for number in range(65)]),
        "spec.dataCollector.redact: Too many: 65: must have at most 64 items",
    ),
    wanted(
        "a name is left out once",
        kept(redact=["a", "b"]),
        kept(redact=["a", "a"]),
        "spec.dataCollector.redact[1]: Duplicate value",
    ),
    wanted(
        "the name of what is left out ends",
        kept(redact=["a" * 253]),
        kept(redact=["a" * 254]),
        "spec.dataCollector.redact[0]: Too long: may not be more than 253",
    ),
]
