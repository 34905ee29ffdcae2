"""Croissant metadata of a version: JSON-LD by version 1.0 of the format of MLCommons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ultramarine_contract.common import FileEntry
from ultramarine_contract.dataset_records import table_format
from ultramarine_contract.meta import DATASET, Manifest

from ..kube.errors import NotFound

if TYPE_CHECKING:
    from ..client import Client

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
ENCODINGS = {"csv": "text/csv", "parquet": "application/x-parquet", "jsonl": "application/jsonlines"}
TYPES = {
    "boolean": "sc:Boolean",
    "int64": "sc:Integer",
    "float64": "sc:Float",
    "decimal": "sc:Float",
    "date": "sc:Date",
    "timestamp": "sc:DateTime",
}


def metadata(client: Client, version: Manifest) -> dict[str, Any]:
    """Return the metadata of a version, with all of its files and the columns in its status."""
    try:
        dataset = client.cluster.get(DATASET, version["spec"]["dataset"]).get("spec") or {}
    except NotFound:
        dataset = {}
    return document(version, dataset, client.datasets.files(version).files)


def document(version: Manifest, dataset: Manifest, files: Sequence[FileEntry]) -> dict[str, Any]:
    """Return the metadata of a version with these files, whose Dataset has this spec."""
    spec, status, card = version["spec"], version.get("status") or {}, dataset.get("card") or {}
    objects = [_file(spec["uri"], entry, place) for place, entry in enumerate(files)]
    fields: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": spec["dataset"],
        "description": dataset.get("description") or f"Version {spec['version']} of {spec['dataset']}.",
        "version": f"{spec['version']}.0.0",
        "datePublished": version["metadata"].get("creationTimestamp", ""),
        "url": spec["uri"],
        "license": card.get("license", ""),
        "creator": {"@type": "sc:Organization", "name": card["owner"]} if card.get("owner") else None,
        "citeAs": card.get("citation", ""),
        "identifier": spec["digest"],
        "distribution": objects,
    }
    if columns := status.get("columns"):
        fields["distribution"] = [*objects, *_file_set(objects)]
        fields["recordSet"] = [_record_set(columns, objects)]
    return {name: value for name, value in fields.items() if value}


def _file(uri: str, file: FileEntry, place: int) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": _id(file.path, place),
        "name": PurePosixPath(file.path).name,
        "contentUrl": f"{uri}{file.path}",
        "contentSize": f"{file.bytes} B",
        "encodingFormat": ENCODINGS.get(table_format([file.path]), "application/octet-stream"),
        "sha256": file.sha256,
    }


def _id(name: str, place: int) -> str:
    """Return the identifier of a file or a column: its name, or one without white space, which none may have."""
    return f"{place}-{'_'.join(name.split())}" if re.search(r"\s", name) else name


def _file_set(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the set of the files of a table, where the metadata lie beside them; none for a single file."""
    if len(objects) == 1:
        return []
    suffix = PurePosixPath(objects[0]["@id"]).suffix
    return [
        {
            "@type": "cr:FileSet",
            "@id": "files",
            "name": "files",
            "encodingFormat": objects[0]["encodingFormat"],
            "includes": f"*{suffix}",
        }
    ]


def _record_set(columns: list[dict[str, Any]], objects: list[dict[str, Any]]) -> dict[str, Any]:
    origin = {"fileSet": {"@id": "files"}} if len(objects) > 1 else {"fileObject": {"@id": objects[0]["@id"]}}
    return {
        "@type": "cr:RecordSet",
        "@id": "rows",
        "name": "rows",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"rows/{_id(column['name'], place)}",
                "name": column["name"],
                "dataType": TYPES.get(column.get("type", ""), "sc:Text"),
                "source": {**origin, "extract": {"column": column["name"]}},
            }
            for place, column in enumerate(columns)
        ],
    }
