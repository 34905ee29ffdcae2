from __future__ import annotations

from pathlib import Path

import language
import pytest

LONG = " ".join(["word"] * 26)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("name", "each = 1", "trial = 1"),
        ("name", "def read(found): ...", "def read(file): ..."),
        ("name", "[one for one in rows]", "[row for row in rows]"),
        ("opening", 'def f():\n    """Whether it is ready."""', 'def f():\n    """True if it is ready."""'),
        ("opening", 'Field(description="How many pods.")', 'Field(description="Number of pods.")'),
        ("word", 'raise E(f"{pod} cannot be had")', 'raise E(f"cannot pull the image of {pod}")'),
        ("word", "# Held for ever.\n", "# Held until the next pass.\n"),
        ("word", "# Empty, else the name.\n", "# Empty, or else a name.\n"),
        ("word", "# A name that\n# is no label.\n", "# There is no label; it is no longer there.\n"),
        ("word", "# A pod of ours.\n", "# A pod of `of ours`.\n"),
        ("word", 'f"a role for people of {name}"', 'f"write a/people.yaml of {name}"'),
        ("sentence", f"# {LONG}\n# word\n", f"# {LONG[:60]}.\n# {LONG[:60]}\n"),
        ("sentence", f'"""{LONG}"""', f'"""Words.\n\n- {LONG[:60]}\n- {LONG[:60]}\n"""'),
    ],
)
def test_each_rule_finds_the_bad_line_of_python_and_accepts_the_good_one(name: str, bad: str, good: str) -> None:
    assert [finding.rule for finding in language.python(bad)] == [name]
    assert not list(language.python(good))


@pytest.mark.parametrize(
    ("file", "rule", "bad", "good"),
    [
        ("page.md", "word", "Nobody asks.", "```\nNobody asks.\n```\n"),
        ("page.md", "word", "# Who people are", "<!-- rows: a -->\npeople\n<!-- end of rows -->\n"),
        ("page.md", "sentence", LONG, f"{LONG[:60]}\n\n- {LONG[:60]}\n- {LONG[:60]}"),
        ("page.md", "cell", f"| {LONG[:65]} |", f"| {LONG[:59]} | [word](a b) |"),
        ("values.yaml", "word", "a: 1  # set anew\n", "a: anew\n"),
        ("_helpers.tpl", "word", "{{- /* The name,\nbut for the prefix. */ -}}", "{{ but for }}"),
        ("Makefile", "word", "up:  ## a cluster of yours\n", "up:\n\tof yours\n"),
        ("main.go", "word", "x() // for ever\n", 'x("for ever")\n'),
        ("alerts.yaml", "word", "summary: nobody asks\n", "summary: no requests\n"),
        ("data.json", "", "", "nobody"),
    ],
)
def test_each_sort_of_file_is_read_for_its_language_alone(
    tmp_path: Path, file: str, rule: str, bad: str, good: str
) -> None:
    for text, rules in ((bad, [rule] if rule else []), (good, [])):
        (tmp_path / file).write_text(text)
        assert [finding.rule for finding in language.check(tmp_path / file)] == rules


def test_a_finding_names_its_line() -> None:
    (finding,) = language.python("x = 1\n\n# First.\n# Then anew.\n")
    assert (finding.line, finding.rule) == (4, "word")
