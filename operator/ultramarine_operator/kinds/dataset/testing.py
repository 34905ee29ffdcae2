"""Test material of Dataset and DatasetVersion."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.dataset import DatasetSpec, DatasetVersionSpec
from ultramarine_contract.meta import Manifest

from ...shared.plan import Obj, Plan, Platform
from ...shared.testing import (
    DIGEST,
    NAME_OF_40,
    NOW,
    WEIGHTS_DIGEST,
    Life,
    Material,
    Neighbour,
    World,
    applied,
    artifact_digest,
    clash,
    fit,
    named,
    rule,
    seen,
    stored,
    until_message,
    until_state,
    until_true,
)
from .plan import plan_dataset
from .version import plan_version

FOUND: Manifest = {"type": "Ready", "status": "True", "reason": "ArtifactFound", "message": "stored"}
PLACE = "uploads/churn/1/"  # of an artifact


def dataset(**spec: Any) -> Manifest:
    """The Dataset churn as a user applies it."""
    return applied("Dataset", "churn", spec)


def version(number: int, **spec: Any) -> Manifest:
    """A version of churn as a user applies it: one file."""
    whole = {
        "dataset": "churn",
        "version": str(number),
        "uri": f"s3://lake/NAMESPACE/{number}.csv",
        "digest": WEIGHTS_DIGEST,
    }
    return applied("DatasetVersion", f"churn-{number}", {**whole, **spec})


def table(number: int) -> Manifest:
    """A version of churn that is a table."""
    digest = artifact_digest(PLACE)
    uri = f"s3://lake/NAMESPACE/{PLACE}{digest.removeprefix('sha256:')[:16]}/"
    return version(number, uri=uri, digest=digest)


def _upload(number: int) -> str:
    """Folder of the uploads of a Dataset, one for each version so that their files differ."""
    return f"datasets/upload-{number}/"


def uploaded(number: int) -> Manifest:
    """A version of churn as `ultramarine data put` stores and registers it."""
    digest = artifact_digest(_upload(number))
    uri = f"s3://lake/NAMESPACE/{_upload(number)}{digest.removeprefix('sha256:')[:16]}/"
    return version(number, uri=uri, digest=digest)


def stored_dataset(status: Manifest | None = None, **spec: Any) -> Obj[DatasetSpec]:
    """The Dataset churn as the API server returns it."""
    return Obj(stored("Dataset", "churn", spec, status), DatasetSpec.model_validate(spec))


def stored_version(number: int = 1, status: Manifest | None = None, **spec: Any) -> Obj[DatasetVersionSpec]:
    """A version of churn as the API server returns it."""
    whole = {"dataset": "churn", "version": str(number), "uri": f"s3://lake/churn/{number}/", "digest": DIGEST, **spec}
    manifest = stored("DatasetVersion", f"churn-{number}", whole, status)
    return Obj(manifest, DatasetVersionSpec.model_validate(whole))


def profiled_version(platform: Platform) -> Plan:
    """A version of a table, with the TrainingJob that checks it by the schema of its Dataset."""
    columns = [{"name": "age", "type": "int64", "nullable": False, "minimum": 0}]
    expectations = [{"name": "order", "condition": "starts <= ends", "toleratedShare": 0.01}]
    owner = stored_dataset(schema={"columns": columns, "otherColumns": "Forbid"}, expectations=expectations)
    condition = {**FOUND, "status": "False", "reason": "Profiling"}
    obj = stored_version(status={"type": "table", "bytes": 1000, "conditions": [condition]})
    return plan_version(obj, seen(platform=platform, related=(owner.manifest,)), NOW)


def deleted_dataset_version(platform: Platform) -> Plan:
    """A version is gone, and its upload is to go."""
    uri = "s3://lake/team-a/datasets/churn/0123456789abcdef/"
    left = {"artifacts": [{"version": "1", "uri": uri, "deleting": True}]}
    return plan_dataset(stored_dataset(left, deletionPolicy="Delete"), seen(platform=platform), NOW)


async def _moves_aliases(world: World) -> None:
    await until_true(world, "Dataset", "churn")
    await world.edit("Dataset", "churn", {"spec": {"aliases": {"golden": "2"}}})
    await until_message(world, "Dataset", "churn", "Ready", "do not exist: golden -> 2")
    await world.apply(version(2))
    await until_true(world, "Dataset", "churn")
    await until_true(world, "DatasetVersion", "churn-2")


async def _retires_versions(world: World) -> None:
    await until_true(world, "DatasetVersion", "churn-1")
    await world.apply(version(2))
    await world.until("version 1 is gone", lambda: world.get("DatasetVersion", "churn-1") is None)
    await until_true(world, "DatasetVersion", "churn-2")
    await until_true(world, "Dataset", "churn")


async def _deletes_its_files(world: World) -> None:
    """Retention gives version 1 up, whose files a Job deletes at its second attempt; those of version 2 stay."""
    await until_true(world, "DatasetVersion", "churn-1")
    world.decide("churn-1-delete", "fails", "succeeds")
    await world.apply(uploaded(2))
    await world.until("the files of version 1 are deleted", lambda: any(_upload(1) in uri for uri in world.deleted))
    kept = "1 artifacts are deleted when their versions are"
    await until_message(world, "Dataset", "churn", "ArtifactsDeleted", kept)
    assert not any(_upload(2) in uri for uri in world.deleted)


async def _waits_for_its_file(world: World) -> None:
    await until_message(world, "DatasetVersion", "churn-1", "Ready", "1.csv")
    await world.store("1.csv")
    await until_true(world, "DatasetVersion", "churn-1")


async def _gets_a_profile(world: World) -> None:
    world.decide("churn-1-profile", "succeeds")
    await until_true(world, "DatasetVersion", "churn-1", "Profiled")
    await until_state(world, "DatasetVersion", "churn-1", "Ready")


async def _is_read(world: World) -> None:
    """A run resolves an alias once: where that leads later changes nothing."""
    # Not before the story: a Dataset that a run reads cannot be deleted.
    await world.apply(_run("reader", inputs={"data": {"dataset": "churn@golden"}}))
    await until_message(world, "TrainingJob", "reader", "Running", "has no alias golden")
    await world.edit("Dataset", "churn", {"spec": {"aliases": {"golden": "1"}}})
    await until_state(world, "TrainingJob", "reader", "Running")
    await world.edit("Dataset", "churn", {"spec": {"aliases": {"golden": "2"}}})
    world.decide("reader", "succeeds")
    await until_state(world, "TrainingJob", "reader", "Succeeded")
    assert world.status("TrainingJob", "reader")["datasets"]["data"]["version"] == "churn-1"


async def _is_written(world: World) -> None:
    world.decide("writer", "succeeds")
    await until_state(world, "TrainingJob", "writer", "Succeeded")
    await until_true(world, "DatasetVersion", "churn-1")


async def _imports_its_source(world: World) -> None:
    world.decide("churn-import-1", "succeeds")
    await until_true(world, "Dataset", "churn", "Refreshed")
    await until_true(world, "DatasetVersion", "churn-1")


def _run(name: str, **spec: Any) -> Manifest:
    return applied("TrainingJob", name, {"command": ["true"], **spec})


COLUMN: Manifest = {"name": "age"}
SQL: Manifest = {"connectionSecretRef": {"name": "crm", "key": "url"}, "query": "select 1"}
DATASET_RULES = (
    named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
    named("metadata.name must not contain a dot", "a-b", "a.b"),
    rule("each alias must be a lower-case name", {"aliases": {"next-1": "8"}}, {"aliases": {"7": "7"}}),
    clash("the alias latest always means", {"aliases": {"newest": "7"}}, {"aliases": {"latest": "7"}}),
    clash("refresh needs a source", {"refresh": None}, {"refresh": {"cron": "0 3 * * *"}, "source": None}),
    clash(
        "schema and expectations apply to type table",
        {"type": "table"},
        {"type": "file", "source": None, "schema": {"columns": [COLUMN]}},
    ),
    clash(
        "the result of a query is a table",
        {"type": "table"},
        {"type": "folder", "schema": None, "expectations": None, "source": {"uri": None, "https": None, "sql": SQL}},
    ),
    clash(
        "give one of uri, https and sql",
        {"source": {"uri": "s3://lake/a.csv", "https": None, "sql": None}},
        {"source": {"uri": None, "https": None, "sql": None}},
        {"source": {"uri": "s3://lake/a.csv", "https": {"url": "https://example.com/a.csv"}, "sql": None}},
    ),
    clash(
        "give connectionSecretRef for PostgreSQL, or uri",
        {"source": {"uri": None, "https": None, "sql": SQL}},
        {"source": {"uri": None, "https": None, "sql": {**SQL, "uri": "s3://lake/a.sqlite"}}},
        {
            "source": {
                "uri": None,
                "https": None,
                "sql": {"query": "select 1", "connectionSecretRef": None, "uri": None},
            }
        },
    ),
    clash("give versions, days or both", {"retention": {"days": 7}}, {"retention": {"versions": None, "days": None}}),
    clash(
        "must not have an empty name, '.' or '..' between slashes",
        {"source": {"uri": "s3://lake/a/b.csv", "https": None, "sql": None}},
        {"source": {"uri": "s3://lake/a/../b.csv", "https": None, "sql": None}},
    ),
    clash(
        "a request must not be above the limit",
        {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}},
        {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
    ),
    clash(
        "a resource such as nvidia.com/gpu cannot be shared",
        {"resources": {"requests": None, "limits": {"nvidia.com/gpu": "1"}}},
        {"resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": None}},
    ),
)
VERSION_RULES = (
    named("metadata.name must be DATASET-VERSION", "churn-7", "churn-8"),
    rule("spec.version in body must be of type string", {"version": "7"}, {"version": 7}),
    clash(
        "must not have an empty name, '.' or '..' between slashes",
        {"uri": "s3://lake/churn/7/"},
        {"uri": "s3://lake/churn/../7/"},
    ),
)


def _complete_dataset(_: Manifest, spec: Manifest) -> None:
    """Make the fields of a drawn Dataset agree."""
    if spec.get("type") in ("file", "folder"):
        spec.pop("schema", None)
        spec.pop("expectations", None)
    spec["source"] = {"uri": "s3://lake/churn.csv"}
    if "refresh" in spec:
        spec["refresh"]["cron"] = "0 3 * * *"
        spec["refresh"].pop("timeZone", None)
    if spec.get("retention") == {}:
        del spec["retention"]
    spec["aliases"] = {f"a{index}": target for index, target in enumerate(spec.get("aliases", {}).values())}
    fit(spec.get("resources", {}))


def _complete_version(manifest: Manifest, spec: Manifest) -> None:
    spec["dataset"] = manifest["metadata"]["name"]
    manifest["metadata"]["name"] = f"{spec['dataset']}-{spec['version']}"


WHOLE_DATASET: Manifest = {
    "metadata": {"name": "churn"},
    "spec": {
        "description": "Who leaves.",
        "card": {"owner": "growth", "license": "CC-BY-4.0", "citation": "Growth (2030)"},
        "type": "table",
        "source": {
            "https": {"url": "https://data.example.com/churn.csv", "tokenSecretRef": {"name": "data", "key": "token"}},
        },
        "refresh": {"cron": "0 3 * * *", "timeZone": "Europe/Berlin", "suspend": True},
        "schema": {
            "columns": [
                {
                    "name": "age",
                    "type": "int64",
                    "nullable": False,
                    "unique": True,
                    "minimum": 0,
                    "maximum": 150,
                    "pattern": "[0-9]+",
                    "values": ["1", "2"],
                }
            ],
            "otherColumns": "Allow",
        },
        "expectations": [{"name": "order", "condition": "starts <= ends", "toleratedShare": 0.01}],
        "onViolation": "Quarantine",
        "aliases": {"golden": "7"},
        "retention": {"versions": 20, "days": 90},
        "deletionPolicy": "Retain",
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}},
    },
}
WHOLE_VERSION: Manifest = {
    "metadata": {"name": "churn-7"},
    "spec": {
        "dataset": "churn",
        "version": "7",
        "uri": "s3://lake/churn/7/",
        "digest": DIGEST,
        "lineage": {
            "trainingJob": "clean",
            "output": "table",
            "inputs": ["raw-3"],
            "gitCommit": "3fa9" * 10,
            "source": "https://data.example.com/churn.csv",
            "query": "SELECT * FROM churn",
            "watermark": "2030-01-01",
            "requestedBy": "ada",
        },
    },
}

DATASET_MATERIAL = Material(
    kind="Dataset",
    whole=WHOLE_DATASET,
    least={},
    defaults={"onViolation": "Quarantine", "deletionPolicy": "Retain"},
    edit={"description": "another one"},
    free=({"description": "Other.", "aliases": {"golden": "8"}}, {"retention": None, "deletionPolicy": "Delete"}),
    rules=DATASET_RULES,
    lives=(
        Life(
            "moves its aliases",
            (dataset(type="file", aliases={"golden": "1"}), version(1)),
            _moves_aliases,
            ("1.csv", "2.csv"),
            edits=({"description": "another"}, {"aliases": {"golden": "1", "other": "9"}}),
            refused=(({"aliases": {"latest": "1"}}, "latest"),),
        ),
        Life(
            "retires versions",
            (dataset(retention={"versions": 1}), version(1)),
            _retires_versions,
            ("1.csv", "2.csv"),
        ),
        Life(
            "deletes its files",
            (dataset(retention={"versions": 1}, deletionPolicy="Delete"), uploaded(1)),
            _deletes_its_files,
            (_upload(1), _upload(2)),
            edits=({"deletionPolicy": "Retain"}, {"retention": {"versions": 2}}),
            refused=(({"deletionPolicy": "Perhaps"}, "deletionPolicy"),),
        ),
        Life(
            "is read",
            (dataset(type="file"), version(1), version(2)),
            _is_read,
            ("1.csv", "2.csv"),
        ),
        Life(
            "is written",
            (dataset(type="folder"), _run("writer", outputs={"model": {"dataset": "churn"}})),
            _is_written,
        ),
        Life(
            "imports its source",
            (dataset(type="file", source={"uri": "s3://lake/NAMESPACE/raw.csv"}),),
            _imports_its_source,
            ("raw.csv",),
        ),
    ),
    samples=(deleted_dataset_version,),
    complete=_complete_dataset,
    neighbour=Neighbour(lambda name, _: applied("Dataset", name, {"type": "file"}), ready=True),
)
VERSION_MATERIAL = Material(
    kind="DatasetVersion",
    whole=WHOLE_VERSION,
    least={key: WHOLE_VERSION["spec"][key] for key in ("dataset", "version", "uri", "digest")},
    edit={},
    rules=VERSION_RULES,
    lives=(
        Life(
            "waits for its file",
            (version(1),),
            _waits_for_its_file,
            refused=(({"digest": "sha256:" + "0" * 64}, "cannot be changed"),),
        ),
        Life("gets a profile", (dataset(type="table"), table(1)), _gets_a_profile, (PLACE,)),
    ),
    samples=(profiled_version,),
    complete=_complete_version,
    neighbour=Neighbour(
        lambda name, artifact: applied(
            "DatasetVersion",
            f"{name}-1",
            {"dataset": name, "version": "1", "uri": artifact.get("uri"), "digest": artifact.get("digest")},
        ),
        ready=True,
    ),
    final=("Ready",),
)
