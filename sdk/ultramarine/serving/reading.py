"""Data of `endpoints invoke`: JSON, or a file of JSON, CSV or Parquet, in the types of a signature."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import counted

from .signature import DataInvalid, Input, Signature


class Columns(dict[str, list[Any]]):
    """Columns of a table by name, as a file has them."""


_CORRECT = "Correct it, or give a file with the suffix .json, .jsonl, .csv, .tsv or .parquet"
_FORMS = ("data", "input_data", "dataframe_split", "dataframe_records", "instances", "inputs")


def read_data(text: str, signature: Signature | None) -> Any:
    """Return the rows of JSON, or of the file after an @; @- is standard input. Raises DataInvalid."""
    if not text.startswith("@"):
        if _is_file(text):
            raise DataInvalid(f"--data {text} is a file. Write --data @{text} to send its rows.")
        return _json(text, "--data")
    if text == "@-":
        return _json(sys.stdin.read(), "standard input, which takes no CSV,")
    path = Path(text[1:])
    if not path.is_file():
        raise DataInvalid(f"--data {text}: the file does not exist. Correct the path.")
    try:
        match path.suffix.lower():
            case ".csv" | ".tsv":
                return _csv(path, signature)
            case ".xlsx" | ".xls" | ".ods":
                raise DataInvalid(f"{path} is a spreadsheet. Save it as .csv, and give that file.")
            case ".parquet":
                return _parquet(path)
            case ".jsonl" | ".ndjson":
                return [_json(line, str(path), _CORRECT) for line in path.read_text().splitlines() if line.strip()]
            case _:
                return _json(path.read_text(), str(path), _CORRECT)
    except UnicodeDecodeError:
        raise DataInvalid(f"{path} is not text. Give JSON, CSV or Parquet with the suffix of its format.") from None


def path_of(document: Any, signature: Signature | None) -> str:
    """Return the path for a document that has a form of the protocol already; empty for plain rows."""
    if (
        not isinstance(document, Mapping)
        or isinstance(document, Columns)
        or (signature and set(document) <= set(signature.columns))
    ):
        return ""
    inputs = document.get("inputs")
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], Mapping) and "datatype" in inputs[0]:
        return f"/v2/models/{signature.model}/infer" if signature else ""
    if signature and len(signature.inputs) == 1 and set(document) == {signature.inputs[0].name}:
        return ""
    return "/score" if any(form in document for form in _FORMS) else ""


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # such as a text that is too long for a path
        return False


def _json(text: str, place: str, remedy: str = "Give rows such as '[[5.1, 3.5]]', or @FILE") -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataInvalid(f"{place} is not JSON: {error}. {remedy}.") from None


def _csv(path: Path, signature: Signature | None) -> Columns:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = next(reader, [])
        columns = Columns({name: [] for name in names})
        if not names or len(columns) < len(names):
            raise DataInvalid(f"{path} needs a first line with different names of its columns. Correct it.")
        if len(names) == 1 and ";" in names[0]:
            raise DataInvalid(f"{path} has semicolons between its columns. Save it with commas, or tabs as .tsv.")
        types = _types(names, signature)
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                there = counted(len(row), "value")
                raise DataInvalid(f"{path}:{reader.line_num}: {there}; the first line has {len(names)}.")
            for name, cell in zip(names, row, strict=True):
                try:
                    columns[name].append(_cell(cell, types.get(name)))
                except ValueError:
                    datatype = types[name]
                    place = f"{path}:{reader.line_num}"
                    raise DataInvalid(
                        f"{place}: column {name!r} has {cell!r}; the model takes {datatype}. Correct it."
                    ) from None
    return columns


def _types(names: list[str], signature: Signature | None) -> dict[str, str]:
    """Return the datatype of each column that the signature has; without names that of the matrix."""
    if signature is None:
        return {}
    by_name: dict[str, Input] = {spec.name: spec for spec in signature.inputs}
    first = signature.inputs[0]
    if len(by_name) == 1:
        by_name = dict.fromkeys(signature.columns or names, first)
    return {name: "FP64" if spec.any_number else spec.datatype for name, spec in by_name.items()}


def _cell(text: str, datatype: str | None) -> Any:
    if text == "":
        return None
    if not datatype:
        return _guessed(text)
    if datatype == "BYTES":
        return text
    if datatype == "BOOL":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    return float(text) if datatype.startswith("FP") else int(text)


def _guessed(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _parquet(path: Path) -> Columns:
    try:
        from pyarrow import lib, parquet
    except ImportError:
        raise DataInvalid(f"{path} needs pyarrow. Run `pip install pyarrow`, or give CSV.") from None
    try:
        return Columns(parquet.read_table(path).to_pydict())
    except lib.ArrowException as error:
        raise DataInvalid(f"{path} is not Parquet: {error}. Correct the file.") from None
