"""Checks names, docstrings, comments, messages and pages for words and sentences that slow a reader down.

`python tests/language.py [PATH...]` prints `file:line: rule: text` for each finding and exits 1 if there is one.
Without a path it checks everything except PENDING. It has no dependencies.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Paths that are not clean yet, each to be removed once it is.
PENDING = tuple(f"tests/{name}" for name in ("api", "chaos", "e2e", "unit"))
# Written by programs, or this checker and its test, which quote what is banned.
SKIPPED = re.compile(
    r"/golden/|_pb2\.pyi?$|^crds/|files/(crds|rbac|people)\.yaml$|^docs/(api\.md|reference/)"
    r"|^tests/(unit/test_)?language\.py$"
)

MAX_WORDS = 25
MAX_CELL_WORDS = 12
BANNED_NAMES = {"told", "said", "found", "known", "wanted", "one", "each"}
OPENINGS = re.compile(r"(What|How|Whether|That|Who|Where|Whose|So many|So much)\b")
# Each with the words to write instead.
BANNED = {
    r"nobody|somebody|people": "the actor: user, operator, pod, caller",
    r"of ours|of yours": "the owner's name, or a plain possessive",
    r"anew": "again",
    r"shall": "must or will",
    r"so many|so much(?! as)": "how many or how much it is, with its noun",
    r"borne": "accepted or tolerated",
    r"mend(s|ed|ing)?": "fix or repair",
    r"be had": "the verb: pull, get, reach",
    r"but for": "except",
    r"for ever": "forever",
    r"doorbell|diary|diaries|desks?|observer|confess(es|ed)?": "the field's own term",
    r"judge[sd]?|judging|judgement": "assess, compare or decide",
    r"(?<!there\s)(is|are|was) no (?!longer|more|less|different|better|worse)\w+": "is not a, or: no X exists",
    r"(also|even|not) where": "if or when",
    r"where (there|nothing|none|no)": "if or when",
    r"(would|will|could|can|may|must) else": "otherwise",
    r"is something else": "expected X",
    r"(\A|(?<=[.,;:(—]\s))else(?! if)": "otherwise",
}
PHRASES = [
    (re.compile(rf"(?<![\w./$-])(?:{phrase.replace(' ', chr(92) + 's+')})(?![\w/-]|\.\w)", re.I), advice)
    for phrase, advice in BANNED.items()
]
SENTENCE_END = re.compile(r"(?<=[.!?:])[\"')\]*]*\s+")
CODE = re.compile(r"``[^`]+``|`[^`]+`|\{\{.*?\}\}|https?://\S+|<[^<> ]+>|<!--[^>]*-->")
# Code blocks of a page, and the parts between `<!-- NAME ... -->` and `<!-- end of NAME -->`.
NOT_PROSE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1[`~]*$|<!-- (\w+)[^>]*-->.*?<!-- end of \2 -->", re.S | re.M)
LIST_ITEM = re.compile(r"\s*([-*]|\d+\.)\s")
# By a file's suffix or name: what begins a comment.
COMMENT = {
    **dict.fromkeys((".yaml", ".yml", ".tpl", ".sh", "Makefile", "Dockerfile"), re.compile(r"(?:^|\s)##?(?:\s|$)(.*)")),
    ".go": re.compile(r"(?:^|\s)//(?:\s|$)(.*)"),
    ".lua": re.compile(r"(?:^|\s)--(?:\s|$)(.*)"),
}
Comment = tuple[int, str, bool]  # a line, the text, and True if nothing stands before it
MESSAGES = {"alerts.yaml", "NOTES.txt"}  # files of text that users read


@dataclass(frozen=True, order=True)
class Finding:
    """One place to rewrite."""

    line: int
    rule: str
    text: str


def banned_words(text: str, line: int) -> Iterator[Finding]:
    """Find banned words and phrases in `text`, which begins at `line`."""
    text = CODE.sub("X", text)
    for phrase, advice in PHRASES:
        for match in phrase.finditer(text):
            yield Finding(line + text.count("\n", 0, match.start()), "word", f"{match[0]!r}; write {advice}")


def long_sentences(text: str, line: int) -> Iterator[Finding]:
    """Find sentences of more than MAX_WORDS words; a blank line or a list's item begins a new sentence."""
    paragraph: list[str] = []
    begin = line
    for number, row in enumerate([*text.split("\n"), ""], line):
        if row.strip() and not LIST_ITEM.match(row):
            paragraph.append(row)
            continue
        for sentence in SENTENCE_END.split(CODE.sub("X", " ".join(paragraph))):
            if (count := len(words_of(sentence))) > MAX_WORDS:
                yield Finding(begin, "sentence", f"{count} words: {' '.join(words_of(sentence)[:8])} ...")
        paragraph, begin = ([row], number) if row.strip() else ([], number + 1)


def words_of(text: str) -> list[str]:
    """Return the words of a text; punctuation alone is not a word."""
    return [word for word in text.split() if re.search(r"\w", word)]


def prose(text: str, line: int) -> Iterator[Finding]:
    """Find banned words and long sentences."""
    yield from banned_words(text, line)
    yield from long_sentences(text, line)


def opened(text: str, line: int) -> Iterator[Finding]:
    """Check a docstring or a description, which begins with a verb or a noun."""
    if match := OPENINGS.match(text.strip()):
        yield Finding(line, "opening", f"begins with {match[0]!r}; begin with a verb or a noun")
    yield from prose(text, line)


def names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node gives to values and functions."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.MatchAs(name=str(name)):
            yield name


def python(source: str) -> Iterator[Finding]:
    """Check the names, docstrings, descriptions, messages and comments of a Python module."""
    tree = ast.parse(source)
    read: set[ast.AST] = set()
    for node in ast.walk(tree):  # breadth first: a docstring comes before its constant, an f-string before its parts
        for name in names(node):
            if name.strip("_") in BANNED_NAMES and node not in read:
                yield Finding(getattr(node, "lineno", 1), "name", f"{name!r}; name the value after the thing it holds")
        if isinstance(node, ast.ClassDef) and node.bases:  # its fields may be those of a document
            read.update(field.target for field in node.body if isinstance(field, ast.AnnAssign))
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if text := ast.get_docstring(node):
                    read.add(node.body[0].value)  # type: ignore[attr-defined]
                    yield from opened(text, node.body[0].lineno)
            case ast.keyword(arg="description", value=ast.Constant(value=str(text)) as constant):
                read.add(constant)
                yield from opened(text, constant.lineno)
            case ast.JoinedStr(values=parts):
                read.update(parts)
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)
                yield from message(text, node.lineno)
            case ast.Constant(value=str(text)) if node not in read:
                yield from message(text, node.lineno)
    yield from comments(python_comments(source))


def message(text: str, line: int) -> Iterator[Finding]:
    """Check a string that may be a message: one of at least three words."""
    if len(text.split()) >= 3:
        yield from banned_words(text, line)


def python_comments(source: str) -> Iterator[Comment]:
    """Yield the comments of a Python module, without those that address a tool."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("#").strip()
        if token.type == tokenize.COMMENT and not text.startswith(("type:", "noqa", "!", "pragma")):
            yield token.start[0], text, token.line.lstrip().startswith("#")


def comments(rows: Iterable[Comment]) -> Iterator[Finding]:
    """Check comments; those on consecutive lines are one text unless they follow code."""
    block: list[Comment] = []
    for comment in [*rows, (-1, "", True)]:
        if block and (comment[0] != block[-1][0] + 1 or not comment[2] or not block[0][2]):
            yield from prose("\n".join(text for _, text, _ in block), block[0][0])
            block = []
        block.append(comment)


def other_comments(source: str, pattern: re.Pattern[str]) -> Iterator[Finding]:
    """Check the comments of a file that is neither Python nor Markdown."""
    matches = [(line, match) for line, row in enumerate(source.split("\n"), 1) if (match := pattern.search(row))]
    yield from comments((line, match[1].strip(), not match.string[: match.start()].strip()) for line, match in matches)
    for match in re.finditer(r"\{\{-?\s*/\*(.*?)\*/", source, re.S):
        yield from prose(match[1], source.count("\n", 0, match.start()) + 1)


def markdown(source: str) -> Iterator[Finding]:
    """Check a page outside its code blocks and generated parts."""
    rows = NOT_PROSE.sub(lambda match: "\n" * match[0].count("\n"), source).split("\n")
    for line, row in enumerate(rows, 1):
        row = CODE.sub("X", re.sub(r"\]\([^)]*\)", "]", row))
        if row.startswith(("|", "#")):
            yield from banned_words(row, line)
            for cell in re.split(r"(?<!\\)\|", row) if row.startswith("|") else ():
                if (count := len(words_of(cell))) > MAX_CELL_WORDS:
                    yield Finding(line, "cell", f"{count} words: {' '.join(words_of(cell)[:8])} ...")
            row = ""
        rows[line - 1] = row
    yield from prose("\n".join(rows), 1)


def check(path: Path) -> list[Finding]:
    """Return the findings of a file, in the order of its lines; none for a file that holds no language."""
    comment = COMMENT.get(path.name) or COMMENT.get(path.suffix)
    if path.suffix == ".py":
        findings = python(path.read_text())
    elif path.suffix == ".md":
        findings = markdown(path.read_text())
    elif path.name in MESSAGES:
        findings = banned_words(path.read_text(), 1)
    elif comment:
        findings = other_comments(path.read_text(), comment)
    else:
        return []
    return sorted(set(findings))


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files below `paths`, relative to the repository, without generated ones and hidden folders."""
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            relative = file.relative_to(ROOT)
            hidden = any(part.startswith(".") or part in ("build", "__pycache__") for part in relative.parts)
            if file.is_file() and not hidden and not SKIPPED.search(relative.as_posix()):
                yield relative


def main() -> None:
    """Print the findings and exit 1 if there are any."""
    chosen = [Path(path).resolve() for path in sys.argv[1:]]
    everything = sorted(path for path in ROOT.iterdir() if not path.name.startswith("."))
    failed = False
    for file in files(chosen or everything):
        pending = not chosen and any(file.is_relative_to(path) for path in PENDING)
        for finding in () if pending else check(ROOT / file):
            print(f"{file}:{finding.line}: {finding.rule}: {finding.text}")
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
