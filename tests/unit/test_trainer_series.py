"""The series of metrics: every value with its time and step in one Parquet file, in a memory that is bounded."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_trainer.progress import series as module
from ultramarine_trainer.progress.series import Limits, Series
from unit.conftest import eventually, serving_store
from unit.test_trainer_run import Pod as Container

AT_THE_END = Limits(first_store=600, pause=0.05)


class Pod:
    """A pod that prints metrics, and what the trainer has said in it."""

    def __init__(self, storage: Storage, bucket: str) -> None:
        self.storage = storage
        self.uri = f"s3://{bucket}/runs/churn/metrics/churn-0-abcde.parquet"
        self.said: list[str] = []

    def series(self, limits: Limits = AT_THE_END) -> Series:
        return Series(self.storage, self.uri, self.said.append, limits)

    def table(self) -> pyarrow.Table | None:
        """What is stored now, or nothing."""
        try:
            return pyarrow.parquet.read_table(io.BytesIO(self.storage.read(self.uri)))
        except StorageError as error:
            assert error.reason == "ObjectNotFound"  # noqa: PT017
            return None

    def rows(self) -> list[tuple[int | None, str, float]]:
        """Step, name and value of each row that is stored."""
        table = self.table()
        return [] if table is None else [(row["step"], row["name"], row["value"]) for row in table.to_pylist()]

    def steps(self, name: str) -> list[int | None]:
        return [step for step, of, _ in self.rows() if of == name]


def close(series: Series, seconds: float = 20) -> None:
    series.close(time.monotonic() + seconds)


@pytest.fixture
def pod(storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    return Pod(storage, bucket)


@pytest.fixture
def away(pod: Pod, storage_to_come: Storage) -> Pod:
    """A pod whose storage is not there before the test serves it."""
    pod.storage = storage_to_come
    return pod


# The file


def test_every_value_is_a_row(pod: Pod) -> None:
    """Time, step, name and value, in types that any reader of Parquet knows; a step that nobody told is null."""
    began = datetime.now(UTC) - timedelta(microseconds=1)
    series = pod.series()
    series.read("epoch=1 step=0 loss=0.5, lr=1e-3", 0)
    series.read("nothing to see; a=b", 0)
    series.add({"loss": 0.25}, 1)
    series.add({"größe": 3.0}, -1)
    close(series)

    table = pod.table()
    assert table is not None
    assert {field.name: str(field.type) for field in table.schema} == {
        "time": "timestamp[us, tz=UTC]",
        "step": "int64",
        "name": "dictionary<values=string, indices=int32, ordered=0>",
        "value": "double",
    }
    assert pod.rows() == [
        (0, "epoch", 1.0),
        (0, "loss", 0.5),
        (1, "loss", 0.25),
        (0, "lr", 0.001),
        (None, "größe", 3.0),
    ]
    assert all(began <= told <= datetime.now(UTC) for told in table["time"].to_pylist())
    metadata = pyarrow.parquet.ParquetFile(io.BytesIO(pod.storage.read(pod.uri))).metadata
    assert {metadata.row_group(0).column(column).compression for column in range(4)} == {"ZSTD"}
    assert (series.stored, pod.said) == (pod.uri, [])


def test_a_pod_without_metrics_stores_nothing(pod: Pod) -> None:
    """No values, no object; a line that tells the step only has none."""
    series = pod.series(Limits(first_store=0.01))
    series.read("step=3", 3)
    series.add({}, 4)
    time.sleep(0.1)
    close(series)

    assert (pod.table(), series.stored, pod.said) == (None, "", [])


def test_pyarrow_is_imported_for_values_only() -> None:
    """A job that prints none pays nothing for the format; and one that does does not pay for pandas."""
    told = "print([name for name in ('pyarrow', 'pandas') if name in sys.modules])"
    program = f"""
import sys, time
sys.path[:0] = {sys.path!r}
import ultramarine_trainer.attempt.run
from ultramarine_trainer.progress.series import Series
class Storage:
    def write(self, uri, data): pass
series = Series(Storage(), "s3://bucket/key", print)
{told}
series.add({{"loss": 1.0}}, 1)
series.close(time.monotonic() + 60)
{told}
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:2] == ["[]", "['pyarrow']"]


# The attempt


def test_what_is_printed_and_what_is_reported_make_one_series(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Each value has the step that was told last, and the verdict of a failure says too where they are."""
    program = """
import json, os, sys, time, urllib.request
print("loss=0.5")
for step in (1, 2):
    print(f"step={step} loss={0.5 / step}", flush=True)
print("loss=7", file=sys.stderr)
time.sleep(0.5)  # for the trainer to have read the lines
told = {"metrics": [{"name": "current_step", "value": "9"}, {"name": "eval_loss", "value": "0.125"}]}
token = open(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"]).read()
headers = {"Authorization": f"Bearer {token}"}
body = json.dumps({"trainerStatus": told}).encode()
urllib.request.urlopen(urllib.request.Request(os.environ["KUBEFLOW_TRAINER_SERVER_URL"], body, headers))
sys.exit(3)
"""
    container = Container(tmp_path, storage.name, bucket)
    code, record, _, stderr = container.run(sys.executable, "-c", program, progress="http://127.0.0.1:9/progress")

    assert (code, record.series) == (3, f"{container.prefix}metrics/pod.parquet"), stderr
    table = pyarrow.parquet.read_table(io.BytesIO(storage.read(record.series)))
    rows = [(row["step"], row["name"], row["value"]) for row in table.to_pylist()]
    assert rows == [(None, "loss", 0.5), (1, "loss", 0.5), (2, "loss", 0.25), (9, "eval_loss", 0.125)]


def test_only_node_0_has_a_series(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The other nodes print the same values again; and the result names the series as the verdict does."""
    container = Container(tmp_path, storage.name, bucket)
    container.environment["JOB_COMPLETION_INDEX"] = "1"
    code, record, _, stderr = container.run("echo", "loss=0.5")
    assert (code, record.series) == (0, ""), stderr
    with pytest.raises(StorageError, match="does not exist"):
        storage.read(f"{container.prefix}metrics/pod.parquet")

    container.environment["JOB_COMPLETION_INDEX"] = "0"
    code, record, _, stderr = container.run("echo", "loss=0.5")
    assert (code, record.series) == (0, f"{container.prefix}metrics/pod.parquet"), stderr
    assert TerminationRecord.from_json(storage.read(f"{container.prefix}result.json").decode()) == record


# When it is stored


def test_a_killed_pod_loses_little(pod: Pod) -> None:
    """It is stored whole each time, without any end; soon at first, later less often, and not where nothing is new."""
    series = pod.series(Limits(first_store=0.05, longest_store=0.2))
    for step in range(1, 6):
        added = time.monotonic()
        series.add({"loss": 1 / step}, step)
        eventually(lambda step=step: pod.steps("loss") == list(range(1, step + 1)))  # type: ignore[misc]
        assert time.monotonic() - added >= 0.05
    close(series)

    assert pod.said == []


def test_several_threads_can_tell(pod: Pod) -> None:
    """What is printed and what is reported come at the same time, and nothing is lost."""
    series = pod.series(Limits(first_store=0.01, longest_store=0.02))

    def tell(name: str) -> None:
        for step in range(1000):
            series.add({name: float(step)}, step)

    tellers = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    close(series)

    for name in "abcd":
        assert pod.steps(name) == list(range(1000))


# Its bounds


def test_the_memory_is_bounded_and_the_whole_run_is_kept(pod: Pod) -> None:
    """Newer values are all there, older ones at even distances from the first one on, and that is said once."""
    series = pod.series(Limits(first_store=600, rows=400))
    for step in range(10_000):
        series.add({"loss": float(step)}, step)
    close(series)

    steps = [step for step in pod.steps("loss") if step is not None]
    assert 200 <= len(steps) <= 400
    assert (steps[0], steps[-100:]) == (0, list(range(9_900, 10_000)))
    older = [after - before for before, after in pairwise(steps) if after - before > 1]
    assert len(older) >= 75
    assert len(set(older[:-1])) == 1
    assert pod.said == ["more than 400 values of metrics came; the older ones are thinned out"]


def test_a_rare_metric_is_not_thinned_out_for_a_frequent_one(pod: Pod) -> None:
    """The metric with the most values gives way."""
    series = pod.series(Limits(first_store=600, rows=400))
    for step in range(10_000):
        series.add({"loss": 1.0, "accuracy": 1.0} if step % 100 == 0 else {"loss": 1.0}, step)
    close(series)

    assert pod.steps("accuracy") == list(range(0, 10_000, 100))
    assert pod.steps("loss")[0] == 0


def test_the_names_are_bounded(pod: Pod) -> None:
    """A command that makes up names gets the first ones, and is told once."""
    series = pod.series(Limits(first_store=600, names=2))
    for number in range(5):
        series.add({f"loss{number}": 1.0, "loss0": 2.0}, 1)
    close(series)

    assert {name for _, name, _ in pod.rows()} == {"loss0", "loss1"}
    assert pod.said == ["only the first 2 metrics are kept; loss2 is not"]


# A storage that is away


def test_values_wait_for_a_storage_that_is_away(away: Pod, tmp_path: Path) -> None:
    """Telling goes on, the failure is said once, and all of it is there when the storage is back."""
    (tmp_path / "buckets" / away.uri.split("/")[2]).mkdir(parents=True)
    series = away.series(Limits(first_store=0.05, longest_store=0.1, pause=0.05))
    series.add({"loss": 1.0}, 1)
    eventually(lambda: away.said != [])
    series.add({"loss": 0.5}, 2)
    with serving_store(tmp_path / "buckets"):
        close(series)
        assert away.steps("loss") == [1, 2]

    [said] = away.said
    assert "does not answer" in said


def test_the_end_does_not_wait_longer_than_it_may(away: Pod) -> None:
    """With the storage away, closing stops at its deadline and says what is lost."""
    series = away.series()
    series.add({"loss": 1.0}, 1)
    started = time.monotonic()
    close(series, seconds=0.5)

    assert time.monotonic() - started < 30
    assert away.said[-1] == f"the last values of the metrics are not stored in {away.uri}"
    assert series.stored == ""


def test_the_end_does_not_wait_for_what_cannot_pass(pod: Pod, bucket_folder: Path) -> None:
    """A bucket that is not there does not come back within the grace period; what is stored already stays pod."""
    series = pod.series(Limits(first_store=0.01, pause=60))
    series.add({"loss": 1.0}, 1)
    eventually(lambda: series.stored == pod.uri)
    for file in sorted(bucket_folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    bucket_folder.rmdir()
    series.add({"loss": 0.5}, 2)
    started = time.monotonic()
    close(series, seconds=60)

    assert time.monotonic() - started < 30
    assert [line.split(" ", 3)[:3] for line in pod.said] == [["the", "metrics", "cannot"], ["the", "last", "values"]]
    assert series.stored == pod.uri


def test_what_comes_after_the_end_is_let_go(pod: Pod) -> None:
    """A daemon that outlived the command may still print; nobody is hurt."""
    series = pod.series()
    series.add({"loss": 1.0}, 1)
    close(series)
    series.add({"loss": 0.5}, 2)
    close(series)

    assert pod.steps("loss") == [1]


# A container that is small


def limited(folder: Path, most: str, used: int, cached: int) -> Path:
    """The files of a cgroup."""
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 0\n")
    return folder


def test_a_container_without_room_is_left_alone(pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job must not run out of memory for its curve: it is said once, and nothing is stored."""
    monkeypatch.setattr(module, "_CGROUP", limited(tmp_path, "100000000", 90_000_000, 1_000_000))
    monkeypatch.delitem(sys.modules, "pyarrow")
    series = pod.series(Limits(first_store=0.01, longest_store=0.01))
    series.add({"loss": 1.0}, 1)
    eventually(lambda: pod.said != [])
    time.sleep(0.1)
    close(series)

    assert [line.split(":")[0] for line in pod.said] == [
        "the metrics cannot be stored",
        f"the last values of the metrics are not stored in {pod.uri}".split(":")[0],
    ]
    assert "10 MiB of memory left, and 64 are needed" in pod.said[0]
    assert series.stored == ""


def test_room_is_what_is_not_merely_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the kernel keeps in memory give way; and without a limit there is room for everything."""
    monkeypatch.setattr(module, "_CGROUP", limited(tmp_path, "100", 90, 60))
    assert module._room() == 70
    monkeypatch.setattr(module, "_CGROUP", limited(tmp_path, "max", 90, 60))
    assert module._room() == float("inf")
    monkeypatch.setattr(module, "_CGROUP", tmp_path / "no-such-folder")
    assert module._room() == float("inf")
