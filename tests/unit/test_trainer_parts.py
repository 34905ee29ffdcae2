"""The pure parts of the trainer: lines, metrics, tail, formats, the source copy, the command's environment."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_contract.common import METRIC_LIMIT, TERMINATION_LIMIT, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_trainer.attempt.child import environment_for_command
from ultramarine_trainer.attempt.lines import LINE_LIMIT, TAIL_LIMIT, LineCutter, Tail
from ultramarine_trainer.data.outputs import empty, format_of, untrusted_types
from ultramarine_trainer.data.source import copy_source
from ultramarine_trainer.progress.metrics import UNREAD, LatestMetrics, metrics_in


def lines_of(*chunks: bytes) -> list[str]:
    """Return what a cutter makes of `chunks`."""
    cutter = LineCutter()
    return [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.close()


# Metrics


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("epoch=3 loss=0.12", {"epoch": 3.0, "loss": 0.12}),
        ("loss=1e-5, acc=.9; f1=+1.", {"loss": 1e-5, "acc": 0.9, "f1": 1.0}),
        ("[INFO] val/auc.roc-2=-0.5 done", {"val/auc.roc-2": -0.5}),
        ("loss=0.1 loss=0.2", {"loss": 0.2}),
        ("loss=nan acc=inf b=-Infinity c=1e999", {}),
        ("loss = 0.1", {}),
        ("[LightGBM] [Info] [binary:BoostFromScore]: pavg=0.500000 -> initscore=0.000000", {}),
        ("[12:00:01] INFO: /workspace/src/tree/updater_prune.cc:98: tree pruning end, max_depth=3", {}),
        ("lr=0.1x url=http://a?b=1 =3 a==3 1a=3 a=1_000 a=0x10 a=", {}),
        ("n" * 63 + "=1 " + "n" * 64 + "=1", {"n" * 63: 1.0}),
    ],
)
def test_metrics_are_words_with_a_finite_number(line: str, found: dict[str, float]) -> None:
    """`name=value` counts as a whole word only, with a plain name and a finite value."""
    assert metrics_in(line) == found


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("accuracy: 0.93", "accuracy=0.93"),
        ("f1 = 0.5", "f1=0.5"),
        ("  Val accuracy:  93.1%", "Val_accuracy=93.1"),
        ("Epoch 1/3 loss: 0.3", "loss=0.3"),
        ("Fold 2 val loss: 0.3", "val_loss=0.3"),
        ("loss=0.5", ""),
        ("seed: 42", ""),
        ("took: 3.2 s", ""),
        ("http://a.b: 0.1 down", ""),
        ("[LightGBM] [Info] pavg: 0.5", ""),
    ],
)
def test_a_metric_in_another_form_is_named_unless_there_are_metrics(line: str, form: str) -> None:
    """A line of its own with a fraction is no metric, and what would be one is said."""
    latest = LatestMetrics()
    latest.read(line)
    assert latest.unread == (f'"{line.strip()}" is not read as a metric: print {form}' if form else "")
    latest.read("loss=0.1")
    assert (latest.unread, latest.values) == ("", {"loss": 0.1})


def test_a_line_is_named_only_if_its_name_looks_like_a_metric() -> None:
    """A time, a version or a setting is no metric, and does not hide one that came before."""
    latest = LatestMetrics()
    for line in ("Python: 3.12", "Elapsed: 12.5", "test size: 0.2"):
        latest.read(line)
        assert latest.unread == UNREAD
    for line in ("val_iou: 0.7", "ROC-AUC: 0.9", "Mean squared error: 0.1", "Elapsed: 12.5"):
        latest.read(line)
    assert latest.unread.startswith('"Mean squared error: 0.1" is not read as a metric')


@given(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_./-]{0,62}", fullmatch=True), st.floats(allow_nan=False, allow_infinity=False)
)
def test_every_finite_float_is_read_as_python_prints_it(name: str, value: float) -> None:
    """What `print(f"{name}={value}")` writes is what arrives."""
    assert metrics_in(f"{name}={value}") == {name: value}


@given(st.text(max_size=200))
def test_no_line_breaks_the_metrics(line: str) -> None:
    """Any text is taken, and only finite numbers come out."""
    assert all(value - value == 0 for value in metrics_in(line).values())


def test_the_latest_value_wins_and_names_are_bounded() -> None:
    """A runaway script cannot fill the status: the first names stay, with their newest values."""
    latest = LatestMetrics()
    for index in range(100):
        latest.read(f"m{index}=1")
    latest.read("m0=2 m99=2")

    assert list(latest.values) == [f"m{index}" for index in range(METRIC_LIMIT)]
    assert latest.values["m0"] == 2.0


# Lines and tail


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), min_size=1), max_size=20), st.data())
def test_lines_do_not_depend_on_how_the_stream_is_cut(lines: list[str], data: st.DataObject) -> None:
    """However the bytes arrive, the same lines come out."""
    stream = "".join(line + data.draw(st.sampled_from(["\n", "\r\n", "\r"])) for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    bounds = [0, *cuts, len(stream)]

    assert lines_of(*(stream[a:b] for a, b in pairwise(bounds))) == lines


def test_a_megabyte_line_is_forgotten_and_the_next_one_is_read() -> None:
    """An overlong line costs no memory and does not spoil what follows it."""
    cutter = LineCutter()
    for _ in range(1024):
        assert cutter.feed(b"x" * 1024) == []
    assert len(cutter._rest) <= LINE_LIMIT

    assert cutter.feed(b"\nloss=1\n") == ["loss=1"]


@pytest.mark.attack(
    "author/control-characters",
    asset="people's terminals and logs",
    threat="control characters in a command's last words",
    control="made readable before they are stored",
)
def test_colours_and_broken_text_become_readable() -> None:
    """Terminal escapes and bytes that are not UTF-8 do not get into a status."""
    assert lines_of(b"\x1b[32mok\x1b[0m \xff\x00\n") == ["ok \ufffd"]


@given(st.lists(st.text(alphabet="ab", max_size=TAIL_LIMIT * 2), max_size=30))
def test_the_tail_is_bounded_and_ends_with_the_last_line(lines: list[str]) -> None:
    """The tail never exceeds its limit and always has the end of the newest line."""
    tail = Tail()
    for line in lines:
        tail.add(line)

    assert len(str(tail)) <= TAIL_LIMIT
    assert not lines or str(tail).endswith(lines[-1][-TAIL_LIMIT:])


# Termination record


@given(
    st.text(max_size=3000),
    st.text(max_size=6000),
    st.text(max_size=300),
    st.dictionaries(st.text(min_size=1, max_size=63), st.floats(allow_nan=False, allow_infinity=False), max_size=20),
)
def test_a_record_fits_into_the_termination_log(message: str, tail: str, words: str, metrics: dict[str, float]) -> None:
    """Whatever was said, the record is valid JSON, short enough, and its outputs are whole."""
    outputs = {"model": OutputRecord("s3://bucket/out/model/0123456789abcdef/", "sha256:" + "0" * 64, 1, "sklearn")}
    record = TerminationRecord(outputs, metrics, "CommandFailed", message, tail, words)

    text = record.to_json()

    assert len(text.encode()) <= TERMINATION_LIMIT
    back = TerminationRecord.from_json(text)
    assert back.outputs == outputs
    assert back.reason == "CommandFailed"
    assert tail.endswith(back.tail)
    assert words.startswith(back.words)
    assert message.startswith(back.message)


def test_words_are_cut_before_what_cannot_be_missed() -> None:
    """300 characters of another script are 3,600 bytes; metrics and the message stay whole beside them."""
    metrics, message = {f"metric-{number}": 0.5 for number in range(20)}, "command exited with code 1"
    record = TerminationRecord({}, metrics, "CommandFailed", message, "tail", "\U0001f4a5" * 300)
    back = TerminationRecord.from_json(record.to_json())
    assert (back.metrics, back.message, len(back.words) > 100) == (metrics, message, True)


def test_a_log_tail_is_not_taken_for_a_record() -> None:
    """Other words in the termination log are told apart."""
    for text in (
        "",
        "Traceback (most recent call last):",
        "[]",
        json.dumps({"unknown": 1}),
        json.dumps({"outputs": 3}),
    ):
        with pytest.raises(ValueError):
            TerminationRecord.from_json(text)


# Formats


def output(base: Path, *files: str) -> Path:
    """Make an output folder with these files."""
    for file in files:
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).write_bytes(b"1")
    return base


@pytest.mark.parametrize(
    ("files", "wanted", "format"),
    [
        (["model.skops", "card.md"], "auto", "sklearn"),
        (["deep/model.onnx"], "auto", "onnx"),
        (["model.pkl"], "auto", "pickle"),
        (["model.pkl"], "joblib", "joblib"),
        (["model.onnx", "model.pkl"], "onnx", "onnx"),
        (["model.gguf", "tokens.pkl", "words.pkl"], "custom", "custom"),
        (["report.html"], "", ""),
        (["a.onnx", "b.onnx"], "", ""),
    ],
)
def test_the_format_is_that_of_the_one_model_file(tmp_path: Path, files: list[str], wanted: str, format: str) -> None:
    """One known suffix decides; without a wanted format nothing is looked for."""
    assert format_of("model", output(tmp_path, *files), wanted) == format


@pytest.mark.parametrize(
    ("files", "wanted", "reason", "words"),
    [
        ([], "auto", "OutputEmpty", "has to write its result"),
        (["model.bin"], "auto", "OutputInvalid", r"holds model.bin; known are \.skops \(sklearn\)"),
        (
            ["model.py"],
            "auto",
            "OutputInvalid",
            "holds model.py; as python it would be one, which has to be said by its",
        ),
        (
            ["x.txt"],
            "auto",
            "OutputInvalid",
            r"must be a model but holds x.txt; known are \.skops.* a model's \.txt \(li",
        ),
        (["x.txt"], "lightgbm", "OutputInvalid", "x.txt is not a LightGBM model, which begins with 'tree'"),
        (["x.lgb"], "auto", "OutputInvalid", "x.lgb is not a LightGBM model, which begins with 'tree'"),
        (["a.onnx", "b.pkl"], "auto", "OutputInvalid", "holds several models: a.onnx, b.pkl"),
        (["a.onnx", "b.onnx"], "onnx", "OutputInvalid", "holds several models"),
        (["model.onnx"], "sklearn", "OutputInvalid", "a model of format sklearn but holds model.onnx"),
        (["model.onnx"], "tensorrt", "OutputInvalid", "unknown format 'tensorrt'"),
    ],
)
def test_other_outputs_are_refused_with_what_was_found(
    tmp_path: Path, files: list[str], wanted: str, reason: str, words: str
) -> None:
    """The message names what lies there and what would be taken."""
    with pytest.raises(StorageError, match=words) as caught:
        format_of("model", output(tmp_path, *files), wanted)

    assert caught.value.reason == reason


def test_what_servers_refuse_is_read_off_a_skops_file(tmp_path: Path) -> None:
    """The names of types that are not known are there, few and short, in the order of the alphabet; nothing runs."""
    names = ["sklearn.linear_model._base.LinearRegression", *(f"team.{'M' * 200}{n}" for n in range(12)), "os.system"]
    nodes = [
        {"__class__": name.rpartition(".")[2], "__module__": name.rpartition(".")[0], "__loader__": "ObjectNode"}
        for name in names
    ]
    with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps({**nodes[0], "content": nodes[1:]}))
    found = untrusted_types(tmp_path, "sklearn").split(", ")

    assert found[0] == "os.system"
    assert (len(found), max(map(len, found))) == (10, 100)
    assert untrusted_types(tmp_path, "pickle") == ""


def _of_unknown_compression() -> bytes:
    """An archive whose one file has a method of compression that no library has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("schema.json", "{}")
    content = bytearray(stream.getvalue())
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 99
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18), _of_unknown_compression()])
def test_a_damaged_file_is_the_servers_to_name(tmp_path: Path, content: bytes) -> None:
    """What cannot be read says nothing here, and ends no training."""
    (tmp_path / "model.skops").write_bytes(content)
    assert untrusted_types(tmp_path, "sklearn") == ""


# Source and environment


def test_a_config_map_mount_is_copied_through_its_links(tmp_path: Path) -> None:
    """The command sees plain, writable files and none of the kubelet's own folders."""
    source, work = tmp_path / "source", tmp_path / "work"
    (source / "..2026_01_01").mkdir(parents=True)
    (source / "..2026_01_01/train.py").write_text("print(1)")
    (source / "..data").symlink_to("..2026_01_01")
    (source / "train.py").symlink_to("..data/train.py")

    copy_source(source, work)

    assert [path.name for path in work.iterdir()] == ["train.py"]
    assert not (work / "train.py").is_symlink()
    assert (work / "train.py").read_text() == "print(1)"


def test_no_source_is_fine(tmp_path: Path) -> None:
    """An image may carry its own code."""
    copy_source(tmp_path / "absent", tmp_path / "work")


@pytest.mark.attack(
    "training/storage-keys",
    asset="storage keys",
    threat="the command reads them from its environment",
    control="the trainer takes them out of it (see the gaps: it is the same user)",
)
def test_the_command_does_not_see_the_storage_keys() -> None:
    """Credentials and our own variables stay with the trainer."""
    given = {"AWS_SECRET_ACCESS_KEY": "s", "AWS_ACCESS_KEY_ID": "k", "ULTRAMARINE_TASK": "{}", "LR": "0.1"}

    assert environment_for_command(given) == {"PYTHONUNBUFFERED": "1", "LR": "0.1"}


def test_a_folder_is_emptied_whatever_the_command_forbids() -> None:
    """What it has made unwritable and unreadable goes too; root, which may do all, does it as somebody else."""
    folder = Path(tempfile.mkdtemp())
    (folder / "deep/down").mkdir(parents=True)
    (folder / "deep/down/file").touch()
    (folder / "deep/link").symlink_to("/")
    for path in (folder / "deep/down", folder / "deep"):
        path.chmod(0)
    if os.getuid() == 0:
        for path in (folder, folder / "deep", folder / "deep/down"):
            os.chown(path, 65534, 65534)
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            empty(folder)
        finally:
            os._exit(0 if not list(folder.iterdir()) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder.rmdir()
