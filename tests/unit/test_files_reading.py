"""Reading of manifests: values, places, and faults of YAML in words."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultramarine.files.nodes import MAX_DEPTH, SyntaxFault, nodes
from ultramarine.files.reading import MAX_BYTES, InvalidFiles, load, read

JOB = """# A job
apiVersion: ultramarine.dev/v1alpha1
kind: TrainingJob
metadata: {name: churn}
spec:
  command:
  - python
  - train.py
  outputs:
    model: {registerAs: churn}
"""


def values(text: str) -> list[object]:
    """The documents of a text."""
    return [node.value for node in nodes(text)]


def fault(text: str) -> tuple[int, int, str]:
    """Line, column and message of a text's fault."""
    with pytest.raises(SyntaxFault) as caught:
        values(text)
    return (*caught.value.place, caught.value.message)


def test_places_are_lines_and_columns_from_1(tmp_path: Path) -> None:
    """A scalar has its own place, a list or an object that of its key, an absent field that of what is around it."""
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    (document,) = load([file])

    assert document.subject == "TrainingJob/churn"
    assert document.place(("spec", "command", 1)) == (8, 5)
    assert document.place(("spec", "command")) == (6, 3)
    assert document.place(("spec", "outputs", "model", "registerAs")) == (10, 25)
    assert document.place(("spec", "outputs", "model", "registerAs"), of_name=True) == (10, 13)
    assert document.place(("spec", "outputs", "model", "format")) == (10, 5)
    assert document.place(()) == (2, 1)


def test_several_documents_keep_their_lines(tmp_path: Path) -> None:
    """Empty documents are left out, objects of a List stand for themselves, and lines count from the file's begin."""
    file = tmp_path / "all.yaml"
    file.write_text(f"---\n---\n{JOB}---\nkind: List\nitems:\n- kind: A\n- kind: B\n...\n")

    assert [(d.subject, d.node.place.line) for d in load([file])] == [
        ("TrainingJob/churn", 4),
        ("A", 16),
        ("B", 17),
    ]


def test_json_is_read_with_its_tabs_and_escapes() -> None:
    """JSON may be indented by tabs, and may escape slashes and halves of characters."""
    assert values('{\n\t"a": "x\\/y",\n\t"b": "\\ud83d\\ude00"\n}') == [{"a": "x/y", "b": "\U0001f600"}]


def test_anchors_and_merges_are_filled_in() -> None:
    """An alias is a copy of the anchored value, and << takes the fields of objects, of which later ones win."""
    text = "a: &a {x: 1, w: 1}\nb: {<<: *a, x: 2}\nc: [*a]\nd: {<<: [{x: 3}, *a], z: 4}\n"
    (document,) = values(text)
    assert isinstance(document, dict)

    assert document["b"] == {"x": 2, "w": 1}
    assert document["c"] == [{"x": 1, "w": 1}]
    assert document["d"] == {"x": 3, "w": 1, "z": 4}
    assert document["c"][0] is not document["a"]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a:\n\tb: 1", 2, 1, "a tab indents this line; use spaces"),
        ("a: b: c", 1, 5, "quote a text with a colon"),
        ("a: @x", 1, 4, "quote the text"),
        ("a: 'x", 1, 6, "close them"),
        ("a: [1, 2\nb: 1", 2, 2, "a comma or a closing bracket is missing"),
        ("a: \x01", 1, 4, "control character"),
        ("a:\n  b: 1\n c: 2", 3, 2, "align them"),
        ("a: 1\nb: 2\na: 3", 3, 1, "a stands twice, first in line 1"),
        ("y: 1", 1, 1, 'y means true in YAML; write "y" in quotes'),
        ("? [a]\n: 1", 1, 3, "the name of a field must be a text"),
        ("a: !Ref x", 1, 4, "the tag !Ref has no meaning"),
        ("a: !!python/object:os.system x", 1, 4, "the tag !!python/object:os.system has no meaning"),
        ("a: *x", 1, 4, "*x has no anchor &x before it"),
        ("a: &x [*x]", 1, 8, "*x is part of its own value"),
        ("a: .inf", 1, 4, ".inf is not a number of JSON"),
        ("a: {<<: 1}", 1, 9, "<< takes an object"),
        ('a: "\\q"', 1, 5, "use single quotes, or double the backslash"),
        ("[" * (MAX_DEPTH + 1), 1, MAX_DEPTH + 1, "levels; flatten it"),
    ],
)
def test_a_fault_has_its_place_and_a_remedy(text: str, line: int, column: int, words: str) -> None:
    """Faults of YAML, and parts of YAML that no manifest has, are named with line, column and remedy."""
    at_line, at_column, message = fault(text)

    assert (at_line, at_column) == (line, column), message
    assert words in message


def test_aliases_cannot_fill_the_memory() -> None:
    """A document whose aliases multiply is refused before it is filled in."""
    levels = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))

    assert "split it" in fault(f"a0: &a0 [1]\n{levels}")[2]


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    """A missing, huge, binary or empty file, and a text that is not an object, are named; the others are read."""
    (tmp_path / "big.yaml").write_bytes(b"a: 1\n" * (MAX_BYTES // 5 + 1))
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\n\xff\xfe")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "text.yaml").write_text("hello\n")
    (tmp_path / "late.yaml").write_text(f"{JOB}---\na: [")
    (tmp_path / "job.yaml").write_text(JOB)
    names = ("absent", "big", "binary", "empty", "text", "late", "job")
    reading = read([tmp_path / f"{name}.yaml" for name in names])

    assert [document.subject for document in reading.documents] == ["TrainingJob/churn"] * 2
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in reading.problems] == [
        "absent.yaml: cannot be read: No such file or directory; correct the path or its rights",
        "big.yaml: has more than 4 MiB, too much for manifests; split it",
        "binary.yaml:2:1: not a text in UTF-8; save it in UTF-8, or name another file",
        "empty.yaml: has no object; write a manifest, or name another file",
        "text.yaml:1:1: must be an object with apiVersion, kind, metadata and spec",
        "late.yaml:13:1: the value is missing; add it, or close the bracket",
    ]
    with pytest.raises(InvalidFiles, match=r"absent\.yaml: cannot be read"):
        load([tmp_path / "absent.yaml"])


def test_folders_and_standard_input_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for the manifests below it in order, without hidden files; `-` for standard input."""
    for name in ("b.yml", "a/c.yaml", "a/d.json", ".git/e.yaml", ".f.yaml", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"kind": "A"}')
    (tmp_path / "loop").symlink_to(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"kind: B")))

    files = [document.file for document in read([tmp_path, "-"]).documents]
    assert files == [*(str(tmp_path / name) for name in ("b.yml", "a/c.yaml", "a/d.json")), "stdin"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab1-:[]{},#&*!|>'\"%@`\n \t?<~.\\ué\U0001f600"), max_size=60))
def test_any_text_is_values_or_a_fault(text: str) -> None:
    """No text raises anything but a fault."""
    with contextlib.suppress(SyntaxFault):
        values(text)
