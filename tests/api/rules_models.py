"""The rules of a Model; see rules.py."""

from __future__ import annotations

from rules import LONG, MODEL, Rule, called, of_spec

RULES: list[Rule] = [
    # Names
    called(
        MODEL, "a name leaves room for the version", LONG, LONG + "a", "metadata.name must have at most 40 characters"
    ),
    called(MODEL, "a name has no dot", "a-b", "a.b", "metadata.name must not contain a dot"),
    # Words with a form
    of_spec(
        MODEL,
        "an alias is a name",
        {"aliases": {"next-1": "8"}},
        {"aliases": {"7": "7"}},
        "spec.aliases: ",
        "each alias must be a lower-case name of at most 40 characters",
    ),
    of_spec(
        MODEL,
        "latest is taken",
        {"aliases": {"newest": "7"}},
        {"aliases": {"latest": "7"}},
        "spec.aliases: ",
        "the alias latest always means the newest ready version; choose another name",
    ),
    of_spec(
        MODEL,
        "an alias leads to a number",
        {"aliases": {"champion": "12"}},
        {"aliases": {"champion": "v12"}},
        "spec.aliases[champion]: ",
        "must be a version's number from 1, such as 7",
    ),
    # Unknown fields and wrong types
    of_spec(
        MODEL,
        "an alias leads to a whole number, in quotes or not",
        {"aliases": {"champion": 7, "next": "8"}},
        {"aliases": {"champion": 7.5}},
        "spec.aliases.champion in body must be of type integer,string",
    ),
    # What is kept, and what people say about it
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
]
