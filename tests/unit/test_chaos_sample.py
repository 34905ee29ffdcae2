"""The sample of chaos runs that `make test` makes."""

from __future__ import annotations

from chaos.sample import ALL_RUNS, Sample, drawn

THINGS = [f"{kind} {number}" for kind in ("Sweep", "Model", "TrainingJob") for number in range(9)]


def test_a_sample_is_repeatable_and_another_name_draws_others() -> None:
    """The same name gives the same runs, as many as were asked for; another name or salt gives others."""
    one = Sample(5, "abc")

    assert one.of(THINGS) == one.of(reversed(THINGS))
    assert len(one.of(THINGS)) == 5
    assert len({tuple(one.of(THINGS)), tuple(one.of(THINGS, "salt")), tuple(Sample(5, "abd").of(THINGS))}) == 3


def test_changed_kinds_come_first() -> None:
    """As far as they go, the runs are about a kind that has changed; the rest is drawn from the others."""

    def kind(thing: str) -> str:
        return thing.split()[0]

    one = Sample(12, "abc", frozenset({"Model"}))
    found = one.of(THINGS, kind=kind)

    assert [kind(thing) for thing in found[:9]] == ["Model"] * 9
    assert "Model" not in {kind(thing) for thing in found[9:]}


def test_without_a_sample_all_runs_are_made_in_their_order() -> None:
    """Nothing is left out, and nothing is sorted."""
    assert ALL_RUNS.of(reversed(THINGS)) == THINGS[::-1]


def test_the_environment_names_a_sample(monkeypatch) -> None:
    """A sample that has failed is drawn again by the name that its run has printed."""
    monkeypatch.setenv("ULTRAMARINE_CHAOS_SAMPLE", "248f2d6")
    monkeypatch.setenv("ULTRAMARINE_CHAOS_RUNS", "7")
    one = drawn(3)

    assert (one.name, one.runs) == ("248f2d6", 7)
    assert "ULTRAMARINE_CHAOS_SAMPLE=248f2d6 ULTRAMARINE_CHAOS_RUNS=7" in str(one)
