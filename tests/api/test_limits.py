"""Every limit of the schemas, enumerated from the CRDs, before a real API server: a new field needs no table here."""

from __future__ import annotations

import re

import pytest
from bare import Api, documents, schema_of, whole
from limits import Limit, has, limits, placed
from materials import MATERIALS
from ultramarine_contract.meta import Manifest

LIMITS: dict[str, list[Limit]] = {
    kind: list(limits(schema_of(crd)["properties"]["spec"], ("spec",), MATERIALS[kind].borrowed))
    for kind, crd in documents().items()
}
KEYWORDS = sorted({limit.keyword for kind in LIMITS for limit in LIMITS[kind]})


@pytest.fixture(scope="module")
def empty(namespace) -> Api:
    """A namespace in which nothing is ever stored."""
    return namespace()


def of(keyword: str, kind: str) -> list[Limit]:
    """The limits of a kind that have that keyword."""
    return [limit for limit in LIMITS[kind] if limit.keyword == keyword]


def based(kind: str, limit: Limit) -> Manifest:
    """A valid object in which the limit's field has its neighbours: the whole one, or an example that keeps a rule."""
    examples = (whole(kind, rule.ok) for rule in MATERIALS[kind].rules)
    part = limit.path if limit.keyword == "twice" else limit.path[:-1]
    return next((example for example in (whole(kind), *examples) if has(example, part)), whole(kind))


@pytest.mark.attack(
    "author/huge-objects",
    asset="API server, etcd",
    threat="huge objects",
    control="every text, list and map has a limit",
)
@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("kind", LIMITS)
def test_a_value_beyond_a_limit_is_refused(empty, kind, keyword):
    """A value just beyond a limit is refused, with its path and what is allowed.

    Limits are bounds, sizes, words, types and patterns, and fields that are required or unknown.
    """
    mine = of(keyword, kind)
    answers = {
        str(limit): (limit, empty.verdict(placed(based(kind, limit), limit.path, limit.beyond))) for limit in mine
    }

    assert {name: words for name, (limit, words) in answers.items() if not re.search(limit.words, words)} == {}
    assert not any("should match" in words for _, words in answers.values()), "users cannot read a regular expression"


@pytest.mark.parametrize("keyword", ["minimum", "maximum", "enum"])
@pytest.mark.parametrize("kind", LIMITS)
def test_a_value_at_a_limit_is_not_refused_for_it(empty, kind, keyword):
    """The bound itself and the last of the words are not what an object is refused for."""
    mine = of(keyword, kind)
    answers = {
        str(limit): (limit, empty.verdict(placed(based(kind, limit), limit.path, lambda _, at=limit.at: at)))
        for limit in mine
    }

    assert {name: words for name, (limit, words) in answers.items() if re.search(limit.words, words)} == {}


def test_there_is_much_to_enumerate():
    """Limits of every sort are found, and in every kind."""
    assert len(KEYWORDS) >= 12, KEYWORDS
    assert all(len(LIMITS[kind]) > 5 for kind in LIMITS)
