"""Every limit of the schemas, enumerated from the CRDs, before a real API server: a new field needs no table here."""

from __future__ import annotations

import re

import pytest
from bare import Api, documents, schema_of, whole
from limits import Limit, limits, placed
from rules import SWEEP

# The trials of a Sweep are a TrainingJob's spec, which test_admission.py shows.
BORROWED = {SWEEP: ("spec", "trialTemplate", "spec")}
FOUND: dict[str, list[Limit]] = {
    kind: list(limits(schema_of(crd)["properties"]["spec"], ("spec",), BORROWED.get(kind)))
    for kind, crd in documents().items()
}
KEYWORDS = sorted({limit.keyword for found in FOUND.values() for limit in found})


@pytest.fixture(scope="module")
def empty(namespace) -> Api:
    """A namespace in which nothing is ever stored."""
    return namespace()


def said(api: Api, kind: str, limit: Limit, value: object) -> str:
    """The verdict on a whole object in which the limit's field has that value."""
    return api.verdict(placed(whole(kind), limit.path, value))


@pytest.mark.attack("author/huge-objects")
@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("kind", FOUND)
def test_what_is_beyond_a_limit_is_refused(empty, kind, keyword):
    """A value just beyond a bound, a word that is none, an empty text or list, a field too few or too many: each is
    refused, with its path and what is allowed."""
    mine = [limit for limit in FOUND[kind] if limit.keyword == keyword]
    heard = {str(limit): (limit, said(empty, kind, limit, limit.beyond)) for limit in mine}

    assert {name: words for name, (limit, words) in heard.items() if not re.search(limit.words, words)} == {}


@pytest.mark.parametrize("keyword", ["minimum", "maximum", "enum"])
@pytest.mark.parametrize("kind", FOUND)
def test_what_just_keeps_a_limit_is_not_refused_for_it(empty, kind, keyword):
    """The bound itself and the last of the words are not what an object is refused for."""
    mine = [limit for limit in FOUND[kind] if limit.keyword == keyword]
    heard = {str(limit): (limit, said(empty, kind, limit, limit.at)) for limit in mine}

    assert {name: words for name, (limit, words) in heard.items() if re.search(limit.words, words)} == {}


def test_there_is_much_to_enumerate():
    """Limits of every sort are found, and in every kind."""
    assert len(KEYWORDS) >= 6, KEYWORDS
    assert all(len(found) > 5 for found in FOUND.values())
