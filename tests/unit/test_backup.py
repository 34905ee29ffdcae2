"""Backups: what is kept of an object, and what is made of it again elsewhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import boto3
import pytest
from ultramarine_cluster import backup
from ultramarine_cluster.errors import ClusterError

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OLD, NEW = "s3://lake/team-a/", "s3://pond/team-b/"
SPEC = {
    "source": {"inline": {"train.py": f"open('{OLD}x')"}},
    "command": ["python", "train.py", f"{OLD}data/"],
    "inputs": {"data": {"uri": f"{OLD}data/"}, "shared": {"uri": "s3://lake/shared/data/"}},
}


def trained(state: str, **fields):
    """A trial's TrainingJob as the API server has it."""
    meta = {
        "name": "a-trial-0",
        "namespace": "team-a",
        "uid": "1",
        "resourceVersion": "7",
        "managedFields": [{}],
        "labels": {"mine": "x", "ultramarine.dev/requested-by": "ada"},
        "annotations": {"mine": "y", "ultramarine.dev/applied": "h", "ultramarine.dev/trial": "{}"},
        "ownerReferences": [{"kind": "Sweep", "name": "a", "uid": "old", "controller": True}],
    }
    spec = {**SPEC, **fields.pop("spec", {})}
    return {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "TrainingJob", "metadata": meta, "spec": spec} | {
        "status": {"state": state, **fields}
    }


def again(manifest, uids=None):
    """Return the manifest that a restore creates of it."""
    kept = json.loads(json.dumps(backup._kept(manifest)))
    return backup.beginning(backup.rewritten(kept, OLD, NEW), "team-b", "team-a@noon", uids or {("Sweep", "a"): "new"})


@pytest.mark.parametrize("state", ["Succeeded", "Failed", "Stopped"])
def test_what_has_ended_begins_suspended(state):
    """Nothing runs before its status is there; its owner is the new one, and the old cluster's fields are left out."""
    made = again(trained(state))

    assert made["spec"]["suspend"] is True
    meta = made["metadata"]
    assert {"uid", "resourceVersion", "managedFields", "owner"}.isdisjoint(meta)
    assert (meta["namespace"], meta["labels"]) == ("team-b", {"mine": "x"})
    assert meta["annotations"] == {"mine": "y", "ultramarine.dev/trial": "{}", backup.RESTORED: "team-a@noon"}
    assert [(owner["name"], owner["uid"]) for owner in meta["ownerReferences"]] == [("a", "new")]
    assert "status" not in made


def test_uris_lead_to_the_new_place_and_code_stays():
    """All texts of the spec but inline code are rewritten, whatever lies elsewhere stays."""
    spec = again(trained("Running"))["spec"]

    assert spec["inputs"]["data"]["uri"] == spec["command"][2] == f"{NEW}data/"
    assert spec["inputs"]["shared"]["uri"] == "s3://lake/shared/data/"
    assert spec["source"] == SPEC["source"]


def test_what_was_running_goes_on_from_its_checkpoint():
    """It runs again, as it has not ended; with checkpoints from the newest, without them from the beginning."""
    last = {"lastCheckpoint": {"uri": f"{OLD}checkpoints/7/"}}
    with_one = again(trained("Running", **last, spec={"checkpoint": {"resume": "Auto"}}))["spec"]

    assert with_one["checkpoint"] == {"resume": "Auto", "resumeFrom": f"{NEW}checkpoints/7/"}
    assert "suspend" not in with_one
    never = {"checkpoint": {"resume": "Never"}}
    assert again(trained("Running", **last, spec=never))["spec"]["checkpoint"] == never["checkpoint"]
    assert "checkpoint" not in again(trained("Running", **last))["spec"]


def test_trials_of_a_sweep_that_goes_on_are_left_out():
    """Its coordinator starts again, with other parameters for the same numbers."""
    kept = backup._kept(trained("Succeeded"))
    sweep = {"kind": "Sweep", "metadata": {"name": "a"}, "status": {"state": "Running"}}

    assert backup.to_restore([sweep, kept]) == [sweep]
    over = {**sweep, "status": {"state": "Succeeded"}}
    assert backup.to_restore([over, kept]) == [over, kept]


def test_files_go_into_a_folder_and_back(storage, object_store, bucket, tmp_path):
    """All below a prefix but what was compiled, and what is there already once."""
    client = boto3.client("s3", endpoint_url=object_store.endpoint, region_name="us-east-1")
    for key in ("team-a/x/1", "team-a/y", "team-a/compiled/v", "team-b/z"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())

    assert backup._download(client, bucket, "team-a/", tmp_path) == (2, 18)
    client.put_object(Bucket=bucket, Key="team-a/y", Body=b"team-a/y!")
    (tmp_path / "y.part").write_text("left by a backup that was killed")
    assert backup._download(client, bucket, "team-a/", tmp_path) == (2, 19)
    assert (tmp_path / "y").read_bytes() == b"team-a/y!"
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()} == {"x/1", "y"}
    assert [backup._upload(client, bucket, "team-c/", tmp_path, LONG_AGO) for _ in "ab"] == [2, 0]
    assert client.get_object(Bucket=bucket, Key="team-c/x/1")["Body"].read() == b"team-a/x/1"


class Leading:
    """A storage whose keys lead out of the folder."""

    def get_paginator(self, _name):
        return self

    def paginate(self, **_where):
        return [{"Contents": [{"Key": "team-a/../../etc/passwd", "Size": 1}]}]


def test_a_key_that_leads_out_of_the_folder_is_refused(tmp_path):
    """A foreign storage may have any key."""
    with pytest.raises(ClusterError, match="leads out of the folder"):
        backup._download(Leading(), "lake", "team-a/", tmp_path)


def test_the_storage_is_that_of_the_release():
    """Endpoint, bucket and the keys' Secret come from the operator's settings, which the chart mounts as YAML."""
    settings = "storage: {endpoint: 'https://s3.example.com', region: '', bucket: lake, secretName: s3}"

    class Release:
        """A release with these settings, and the keys of a namespace."""

        def json(self, *words):
            assert words == ("get", "configmap", "ultramarine-operator", "-n", "home")
            return {"data": {"settings.yaml": settings}}

        def secret(self, namespace, name):
            assert (namespace, name) == ("team-a", "s3")
            return {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}

    with backup._storage(Release(), "home", "team-a") as (client, bucket):
        assert (client.meta.endpoint_url, client.meta.region_name, bucket) == (
            "https://s3.example.com",
            "us-east-1",
            "lake",
        )
