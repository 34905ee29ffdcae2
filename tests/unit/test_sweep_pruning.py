"""Deleting what trials have stored that are not among the best: in a real storage, beside what must stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepSummary
from ultramarine_sweep.service.sweep import prune
from ultramarine_sweep.state import journal
from unit.sweeping import Fleet


@pytest.fixture
def prefix(bucket: str) -> str:
    """Where a sweep stores."""
    return f"s3://{bucket}/team-a/sweeps/hpo/uid-1/"


def stored(storage: Storage, folder: Path, prefix: str, number: int, text: str = "model") -> str:
    """The URI of an output of a trial."""
    folder.mkdir(exist_ok=True)
    (folder / "model.txt").write_text(text)
    return storage.upload_folder(folder, f"{prefix}trials/{number}/model/").uri


def below(storage: Storage, prefix: str) -> set[str]:
    """All folders of outputs."""
    return {
        artifact
        for trial in storage.folders(f"{prefix}trials/")
        for output in storage.folders(trial)
        for artifact in storage.folders(output)
    }


def test_only_what_is_kept_stays(storage: Storage, tmp_path: Path, prefix: str) -> None:
    """Of a trial that ran twice it is the output that counts; all else that the sweep has stored is not touched."""
    said: list[str] = []
    stored(storage, tmp_path / "a", prefix, 1)
    stored(storage, tmp_path / "a", prefix, 2, "of a worker that was lost")
    kept = stored(storage, tmp_path / "a", prefix, 2)
    sibling = stored(storage, tmp_path / "a", prefix.replace("uid-1", "uid-2"), 1)
    storage.write(f"{prefix}journal/00000001.json", b"{}")
    storage.write(f"{prefix}trials/7/model/0123456789abcdef/half", b"of an upload")
    prune(storage, prefix, {kept}, said.append)

    assert below(storage, prefix) == {kept}
    assert set(storage.objects(kept)) == {"model.txt", "manifest.json"}
    assert storage.read(f"{prefix}journal/00000001.json") == b"{}"
    assert storage.read(f"{sibling}model.txt") == b"model"
    assert said == []


def test_a_later_call_goes_on(storage: Storage, tmp_path: Path, prefix: str) -> None:
    """Without time nothing is deleted, which is said; the next coordinator finds the same to do, and then nothing."""
    said: list[str] = []
    kept = stored(storage, tmp_path / "a", prefix, 0)
    stored(storage, tmp_path / "a", prefix, 1, "other")
    prune(storage, prefix, {kept}, said.append, seconds=0.0)
    assert len(below(storage, prefix)) == 2
    assert "stay in the storage" in said[0]
    for _ in range(2):
        prune(storage, prefix, {kept}, said.append)

    assert below(storage, prefix) == {kept}
    assert len(said) == 1


def test_a_sweep_without_outputs_has_nothing_to_delete(storage: Storage, prefix: str) -> None:
    """Nor is that an error."""
    said: list[str] = []
    prune(storage, prefix, set(), said.append)

    assert said == []


def test_a_storage_that_refuses_costs_a_line(
    storage: Storage, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the keys do not open it, what was stored stays."""
    said: list[str] = []
    uri = stored(storage, tmp_path / "a", prefix, 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    prune(Storage(storage.name), prefix, set(), said.append)

    assert below(storage, prefix) == {uri}
    assert len(said) == 1
    assert "stay in the storage: the storage refused the credentials" in said[0]


def test_what_former_best_trials_have_stored_goes_at_the_end(storage: Storage, fleet: Fleet) -> None:
    """Each trial is better than all before it and stores its output; at the end the ten best have theirs, no others."""
    script = "echo model $0 > ../outputs/model/model.txt; echo loss=-$0"
    coordinator = fleet.coordinate(max_trials=13, outputs=("model",))
    worker = fleet.work("w0", "sh", "-c", script, "$(params.x)", outputs={"model": ""})
    assert (coordinator.wait(240), worker.wait(240)) == (0, 0), fleet.said("w0")

    best = SweepSummary.from_json(storage.read(f"{fleet.prefix}summary.json")).best
    assert [trial.trial for trial in best] == list(range(12, 2, -1))
    assert below(storage, fleet.prefix) == {trial.outputs["model"].uri for trial in best}
    assert storage.read(f"{best[0].outputs['model'].uri}model.txt") == b"model 13\n"
    told = journal.read(storage, f"{fleet.prefix}journal/")
    assert len([record for record in told if record["kind"] == "finished"]) == 13
