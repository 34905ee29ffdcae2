"""The pages' commands are complete before a cluster runs them (tests/e2e/test_tutorials.py)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import MARK, ROOT, blocks, missing, script, typed
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import parameter_values, pipeline_faults

README = ROOT / "README.md"
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FIRST = ROOT / "docs" / "tutorials" / "first-model.md"
TYPED = ROOT / "docs" / "tutorials" / "from-a-folder.md"
NIGHTLY = ROOT / "docs" / "tutorials" / "nightly-pipeline.md"


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_is_a_script(page: Path) -> None:
    """Bash can read the commands, and each manifest that they apply is written before."""
    text = script(page)
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    applied = [(match.start(), match[1]) for match in re.finditer(r"-f (\S+\.yaml)", text)]
    assert applied or "ultramarine submit" in text
    for place, name in applied:
        assert f"> {name}" in text[:place], f"{name} is applied before it is written"


@pytest.mark.parametrize(("page", "lines"), [("README.md", 150), ("ARCHITECTURE.md", 250)])
def test_a_page_is_short(page: str, lines: int) -> None:
    """README and architecture stay within the lines that a reader has time for."""
    assert len((ROOT / page).read_text().splitlines()) <= lines


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    """Links of pages outside the site, which Sphinx does not see, lead to files and headings that exist."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (ROOT / page).read_text()):
        name, _, anchor = link.partition("#")
        path = ROOT / (name or page)
        assert path.exists(), link
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings], (
            link
        )


def test_the_readme_shows_the_first_tutorials_commands() -> None:
    """Manifest and commands of the README's first model are the tutorial's, which a cluster runs."""
    tutorial = {(block.language, line) for block in blocks(FIRST) for line in block.text.splitlines()}
    first = [block for block in blocks(README) if block.marker("file") is not None or "get tj,mv" in block.text]
    assert len(first) == 2
    for block in first:
        assert {(block.language, line) for line in block.text.splitlines()} <= tutorial


def test_pages_say_where_data_is_and_what_a_local_run_needs() -> None:
    """The README names the variable of its own example's input, and the page of local runs installs uv."""
    readme = (ROOT / README).read_text()
    (name,) = set(re.findall(r"submit train.py --data (\w+)=", readme))
    assert f"`AZURE_ML_INPUT_{name}`" in readme
    assert "`pip install uv`" in (ROOT / "docs/local.md").read_text()


def test_the_functions_of_a_notebook_run_without_a_cluster(tmp_path: Path) -> None:
    """The tutorial's functions do here what the page shows; their Pipeline and its Schedule have no fault."""
    text, _, _ = NIGHTLY.read_text().partition("\n## 3. ")
    page = tmp_path / "page.md"
    page.write_text(re.sub(r"```sh\nmake demo\n.*?```\n", "", text, count=1, flags=re.DOTALL))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    manifest = "import json, wines; print(json.dumps(wines.cultivars.manifest()))"
    commands = f"{script(page)}.venv/bin/python -c '{manifest}'\n"
    done = subprocess.run(["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert missing(page, done.stdout) == [], done.stdout

    pipeline = json.loads(done.stdout.splitlines()[-1])
    jobs = [step["trainingJob"] for step in pipeline["spec"]["steps"] if "trainingJob" in step]
    assert {job["source"].pop("path") for job in jobs} == {str(tmp_path / "cellar")}
    spec = PipelineSpec.model_validate(pipeline["spec"])
    assert not list(pipeline_faults(spec))
    [schedule] = [yaml.safe_load(block.text) for block in blocks(NIGHTLY) if block.marker("file") == "nightly.yaml"]
    run = schedule["spec"]["template"]["spec"]
    assert run["pipeline"] == pipeline["metadata"]["name"]
    assert parameter_values(spec, run["parameters"])["strength"] == 2.5


def test_output_is_compared_without_ages(tmp_path: Path) -> None:
    """A shown line has to be printed by the commands before it; words with digits and spaces may differ."""
    page = tmp_path / "page.md"
    page.write_text("```sh\nls\n```\n\n```text\nNAME   AGE\na      5s\n```\n")
    assert missing(page, f"{MARK} 0\nNAME AGE\na    12m\n") == []
    assert len(missing(page, f"{MARK} 0\nNAME AGE\nb 12m\n")) == 1
    assert len(missing(page, "NAME AGE\na 12m\n")) == 2


def test_the_recording_is_of_the_page() -> None:
    """The recorded terminal has the typed commands of the page in their order; otherwise run `make cast`."""
    facts, *events = map(json.loads, TYPED.with_suffix(".cast").read_text().splitlines())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(text for _, _, text in events)).replace("\r", "")
    lines = [f"{'$' if number == 0 else '>'} {line}"
             for command in typed(TYPED) for number, line in enumerate(command.command.splitlines())]  # fmt: skip
    recorded = [line for line in text.splitlines() if line.startswith(("$ ", "> ")) and line.strip() != "$"]

    assert (facts["version"], facts["width"]) == (2, 100)
    assert recorded == lines
    assert [kind for _, kind, _ in events if kind != "o"] == []


@pytest.mark.parametrize("file", sorted(TYPED.parent.glob("*.svg")), ids=lambda file: file.stem)
def test_a_picture_is_small_and_loads_nothing(file: Path) -> None:
    """A picture is shown by its page, is under 60 KB, and has no address that a reader's browser would fetch."""
    text = file.read_text()

    assert f"({file.name})" in TYPED.read_text()
    assert len(text.encode()) < 60_000
    assert re.findall(r"(?:href|url)\W*(https?:[^\s)]+)", text) == []


def test_a_figure_has_its_date_and_its_machine() -> None:
    """Each section of the benchmarks has a date; the page's first lines have what holds for all machines."""
    first, *sections = re.split(r"^## ", (ROOT / "docs" / "benchmarks.md").read_text(), flags=re.MULTILINE)

    assert [text.partition("\n")[0] for text in sections if not re.search(r"\b20\d\d-\d\d-\d\d\b", text)] == []
    for fact in ("cores", "GiB", "Linux", "Kubernetes", "Python", "constraints.txt"):
        assert fact in first
