"""The tutorials, run as a reader runs them: the commands, files and outputs are those of the pages."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, around_typed, blocks, is_printed, missing, script, typed
from terminal import Shown, Terminal, picture
from ultramarine_cluster import packages, target

FOLDER = ROOT / "docs" / "tutorials"
TYPED = FOLDER / "from-a-folder.md"
NIGHTLY = FOLDER / "nightly-pipeline.md"
# Their commands are those of other stories (data, sweeps, rollouts), and few changes touch the pages.
SELDOM = ("own-data", "tune-and-canary")
TUTORIALS = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SELDOM else [])
    for page in sorted(FOLDER.glob("*.md"))
    if page not in (TYPED, NIGHTLY)
]
PICTURES = {"train": slice(0, 2), "serve": slice(4, 7), "promote": slice(7, 10)}
SECONDS = 1500
MAX_PICTURE = 60_000  # bytes


@pytest.fixture(scope="module")
def clone(embedded: target.Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the top of the clone, so that the tutorials' files do not get into the repository."""
    packages.ensure("curl")
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name != ".git":
            (folder / path.name).symlink_to(path)
    # `make demo` takes kind if Docker answers; these tests are about the embedded cluster.
    (folder / "without").mkdir()
    (folder / "without" / "docker").write_text("#!/bin/sh\nexit 1\n")
    (folder / "without" / "docker").chmod(0o755)
    return folder


def run(clone: Path, commands: str) -> str:
    """Run commands in the clone, and return their output; fail with it if one of them fails."""
    environment = {**os.environ, "PATH": f"{clone / 'without'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def after_demo(page: Path | Iterable[Block]) -> str:
    """Return the commands of a page without `make demo`, which the fixture `demo` has run."""
    return script(page).replace("make demo\n", "")


def forget(clone: Path, *names: str) -> None:
    """Delete the objects whose names begin like this, for other pages that use the names too."""
    kubectl = "kubectl -n ultramarine"
    listed = f"{kubectl} get sched,plr,pl,oe,tj,mv,mdl -o name | grep -E '/({'|'.join(names)})'"
    run(clone, f'eval "$(.venv/bin/ultramarine-cluster env)"; {listed} | xargs -r {kubectl} delete')
    run(clone, f"rm -rf {' '.join(names)}")


@pytest.fixture(scope="module")
def demo(clone: Path) -> str:
    """The output of `make demo`."""
    return run(clone, "make demo")


def test_the_demo_ends_with_good_predictions(demo: str) -> None:
    """The accuracy computed from the endpoint's own answers is above 0.9."""
    accuracy = re.search(r"accuracy (0\.\d+)", demo)
    assert accuracy
    assert float(accuracy[1]) > 0.9


def test_the_demo_shows_what_exists_now(demo: str) -> None:
    """The demo ends with the objects, where they are, and commands to try next."""
    for words in (
        "trainingjob.ultramarine.dev/breast-cancer",
        "Succeeded",
        "breast-cancer-1",
        "KUBECONFIG",
        "try next",
    ):
        assert words in demo


def test_the_commands_that_the_demo_names_work(demo: str, clone: Path) -> None:
    """The last lines name three commands, which succeed as they stand after the line that sets the shell up."""
    _, _, end = demo.partition("Three things to try next:\n")
    commands = [line.strip() for line in end.splitlines() if line.startswith("  ultramarine ")]
    shell = re.search(r"To use it from this shell:\n  (.*)", demo)
    assert shell
    assert len(commands) == 3
    output = run(clone, "\n".join(["set -e", shell[1], *commands]))
    assert "TrainingJob ultramarine/breast-cancer: Succeeded" in output
    assert '"predict"' in output
    assert "Registered: tumors-" in output
    forget(clone, "tumors")


def test_the_demo_runs_under_restricted_pod_security(demo: str, embedded: target.Target) -> None:
    """The demo's namespace enforces `restricted`, and all of its pods came up in it."""
    namespace = embedded.json("get", "namespace", "ultramarine")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_does_what_it_shows(page: Path, clone: Path, demo: str) -> None:
    """Every command of a tutorial succeeds in order, and prints the lines that the page shows."""
    output = run(clone, after_demo(page))
    assert missing(page, output) == [], output


@pytest.fixture
def without_records(clone: Path, demo: str) -> None:
    """No step of the namespace is reused from an earlier run of these tests."""
    remove = ".venv/bin/ultramarine -n ultramarine data rm -r -y cache/"
    run(clone, f'eval "$(.venv/bin/ultramarine-cluster env)"; {remove} || true')  # a new bucket has none


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_functions_become_a_nightly_pipeline(clone: Path, without_records: None) -> None:
    """The tutorial's commands succeed in order: functions run, are reused, publish, and have a Schedule."""
    output = run(clone, script(NIGHTLY))
    assert missing(NIGHTLY, output) == [], output


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_the_second_chapter_of_the_demo_publishes_a_model(clone: Path, demo: str, without_records: None) -> None:
    """The pipeline of the examples runs to its end and is drawn; the commands that the chapter names succeed."""
    output = run(clone, "make demo CHAPTER=pipeline")
    _, _, chapter = output.partition("A pipeline that publishes")
    for step in ("clean", "tune", "check", "crown"):
        assert f"✔ {step}" in chapter
    assert "· challenge" in chapter
    assert "nightly-cancer@champion" in chapter
    _, _, end = chapter.partition("To go on:\n")
    commands = [line.strip() for line in end.splitlines() if line.startswith("  ultramarine ")]
    assert len(commands) == 4
    run(clone, "\n".join(["set -e", 'eval "$(.venv/bin/ultramarine-cluster env)"', *commands]))
    forget(clone, "nightly-cancer")


@pytest.mark.timeout(SECONDS)
def test_the_readme_does_what_it_shows(clone: Path, demo: str) -> None:
    """The commands of the README's first sections succeed in order, from the demo to a model by YAML."""
    readme = ROOT / "README.md"
    end = readme.read_text().partition("\n## On a platform that runs\n")[0].count("\n")
    run(clone, after_demo(block for block in blocks(readme) if block.line <= end))
    forget(clone, "tumors", "cancer")


@pytest.fixture(scope="module")
def recorded(
    clone: Path, demo: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Terminal, list[Shown]]]:
    """The terminal after all typed commands of a tutorial, and what it showed of each command."""
    before, after = around_typed(TYPED)
    folder = tmp_path_factory.mktemp("terminal")
    state = folder / "state.bash"
    forget(clone, "vineyard")
    run(clone, f"{after_demo(before)}declare -px > {state}\nprintf 'cd %q' \"$PWD\" >> {state}\n")
    try:
        with Terminal(folder, f"source {state}", "From a folder to a served model") as terminal:
            yield terminal, [terminal.type(command.command) for command in typed(TYPED)]
    finally:
        run(clone, f"source {state}\n{script(after)}")


@pytest.mark.timeout(SECONDS)
def test_ten_typed_commands_lead_to_a_promoted_model(recorded: tuple[Terminal, list[Shown]]) -> None:
    """Each command of the page succeeds in a terminal, and the screen has the lines that the page shows."""
    _, screens = recorded
    for command, screen in zip(typed(TYPED), screens, strict=True):
        assert screen.exit_code == 0, screen.text
        assert [line for line in command.shown if not is_printed(line, screen.lines)] == [], screen.text
    assert len(screens) == 10
    doctor, *_, asked, _, _, deployed = (screen.text for screen in screens)
    assert "FAILED" not in doctor
    assert '"predict": [0, 1, 2]' in asked
    assert "vineyard is ready" in deployed


def test_a_terminal_of_100_columns_has_colours_and_whole_lines(recorded: tuple[Terminal, list[Shown]]) -> None:
    """States have colours, and no line is longer than the terminal or has a control character left in it."""
    _, screens = recorded
    assert [line for screen in screens for line in screen.broken] == []
    assert "\x1b[32mok" in screens[0].colours
    assert "\x1b[32mSucceeded" in screens[1].colours
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f]", "".join(screen.text for screen in screens)) == []


def test_the_recording_is_kept(
    recorded: tuple[Terminal, list[Shown]], pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """`make cast` writes the recording and the pictures of the page; every run makes them as small as they must be."""
    terminal, screens = recorded
    folder = FOLDER if pytestconfig.getoption("record_cast") else tmp_path
    terminal.recording.write(folder / f"{TYPED.stem}.cast")
    for name, part in PICTURES.items():
        text = picture(screens[part], f"{TYPED.stem}-{name}", "ultramarine")
        (folder / f"{TYPED.stem}-{name}.svg").write_text(text)
        assert len(text) < MAX_PICTURE
