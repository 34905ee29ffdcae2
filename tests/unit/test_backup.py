"""Backups: what is kept of an object, and what is made of it again elsewhere."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime

import boto3
import pytest
from ultramarine_cluster import backup
from ultramarine_cluster.errors import ClusterError

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
VERSION = "ultramarine.dev/v1alpha1"
ENDS = {"Model": False, "ModelVersion": False, "OnlineEndpoint": False, "Sweep": True, "TrainingJob": True}
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
        "ownerReferences": [{"apiVersion": VERSION, "kind": "Sweep", "name": "a", "uid": "old", "controller": True}],
    }
    spec = {**SPEC, **fields.pop("spec", {})}
    return {"apiVersion": VERSION, "kind": "TrainingJob", "metadata": meta, "spec": spec} | {
        "status": {"state": state, **fields}
    }


def again(manifest, uids=None):
    """Return the manifest that a restore creates of it."""
    kept = json.loads(json.dumps(backup._kept(manifest)))
    moved = backup.rewritten(kept, OLD, NEW)
    uids = uids or {("Sweep", "a"): "new"}
    return backup.beginning(moved, "team-b", "team-a@noon", uids, over=backup.is_over(moved, ENDS))


@pytest.mark.parametrize("state", ["Succeeded", "Failed", "Cancelled", "Stopped"])
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


def stored(kind, name, owner=None, state="Running"):
    """An object of a backup."""
    return {"kind": kind, "metadata": {"name": name} | ({"owner": owner} if owner else {}), "status": {"state": state}}


def test_what_unfinished_runs_own_is_left_out():
    """An unfinished run of any kind makes its children again, and they theirs; those of an ended run are restored."""
    ends = {**ENDS, "Pipeline": True}
    pipeline = stored("Pipeline", "p")
    sweep = stored("Sweep", "a", {"kind": "Pipeline", "name": "p"}, "Succeeded")
    trial = backup._kept(trained("Succeeded"))

    assert backup.to_restore([pipeline, sweep, trial], ends) == [pipeline]
    ended = stored("Pipeline", "p", state="Failed")
    assert backup.to_restore([ended, sweep, trial], ends) == [ended, sweep, trial]


def test_owners_come_before_what_they_own_and_versions_before_endpoints():
    """The names of the kinds do not matter; an owner that is not in the backup does not either."""
    version = stored("ModelVersion", "churn-1", {"kind": "Training", "name": "z"})
    nested = stored("Pipeline", "a", {"kind": "Pipeline", "name": "b"})
    alone = stored("Sweep", "s", {"kind": "Pipeline", "name": "lost"})
    resources = [stored("OnlineEndpoint", "churn"), version, stored("Training", "z"), nested, stored("Pipeline", "b")]

    names = [item["metadata"]["name"] for item in backup.in_order([*resources, alone])]

    assert names.index("z") < names.index("churn-1")
    assert names.index("churn-1") < names.index("churn")
    assert names.index("b") < names.index("a")
    assert len(names) == len(resources) + 1


def test_objects_that_own_each_other_are_refused():
    """A backup that was edited may have a cycle of owners."""
    cycle = [stored("Sweep", "a", {"kind": "Sweep", "name": "b"}), stored("Sweep", "b", {"kind": "Sweep", "name": "a"})]

    with pytest.raises(ClusterError, match="own each other: Sweep"):
        backup.in_order(cycle)


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


class Release:
    """A cluster with a release: kubectl answers from `objects` by type and name, or fails."""

    def __init__(self, **objects):
        self.objects = objects

    def run(self, *words, **_):
        if words[0] != "get":
            raise subprocess.CalledProcessError(1, words, stderr="Forbidden")
        return json.dumps(self.objects[words[1]]) if words[1] in self.objects else ""

    def json(self, *words):
        if words[1] not in self.objects:
            raise subprocess.CalledProcessError(1, words, stderr="Forbidden")
        return self.objects[words[1]]

    def secret(self, namespace, name):
        assert (namespace, name) == ("team-a", "s3")
        return {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


SETTINGS = "storage: {endpoint: 'https://s3.example.com', region: '', bucket: lake, secretName: s3}"
VARIABLES = {"ENDPOINT": "https://s3.example.com", "BUCKET": "lake", "SECRET": "s3"}
CONTAINER = {"env": [{"name": f"ULTRAMARINE_STORAGE_{name}", "value": value} for name, value in VARIABLES.items()]}


@pytest.mark.parametrize(
    "template",
    [
        {"metadata": {"annotations": {"ultramarine.dev/settings": SETTINGS}}, "spec": {"containers": [{}]}},
        {"metadata": {}, "spec": {"containers": [CONTAINER]}},
    ],
    ids=["annotation", "variables"],
)
def test_the_storage_is_that_of_the_release(template):
    """Endpoint, bucket and the keys' Secret come from the settings, or from an older operator's variables."""
    release = Release(deployment={"spec": {"template": template}})
    with backup._storage(release, "home", "team-a") as (client, bucket):
        assert (client.meta.endpoint_url, client.meta.region_name, bucket) == (
            "https://s3.example.com",
            "us-east-1",
            "lake",
        )


def test_a_namespace_without_an_operator_is_refused():
    """RELEASE may be misspelled."""
    with pytest.raises(ClusterError, match="no operator in namespace home"), backup._storage(Release(), "home", "a"):
        pass


def definition(group, kind, *status):
    """A CRD with these fields of the status."""
    schema = {"properties": {"status": {"properties": {key: {} for key in status}}} if status else {}}
    version = {"schema": {"openAPIV3Schema": schema}}
    return {"spec": {"group": group, "names": {"kind": kind}, "versions": [version]}}


def test_the_kinds_are_those_of_the_cluster():
    """An older cluster lacks kinds of the clone; one whose status has completionTime runs to an end."""
    sweep = definition("ultramarine.dev", "Sweep", "completionTime")
    items = [sweep, definition("ultramarine.dev", "Model"), definition("example.com", "Pizza", "completionTime")]

    assert backup.kinds(Release(customresourcedefinitions={"items": items})) == {"Model": False, "Sweep": True}
    with pytest.raises(ClusterError, match="no kind of"):
        backup.kinds(Release(customresourcedefinitions={"items": []}))


def test_a_kind_that_the_cluster_lacks_stops_a_restore(tmp_path):
    """The objects of that kind would silently be left out."""
    (tmp_path / "backup.json").write_text(json.dumps({"namespace": "a", "time": "t", "bucket": "b"}))
    (tmp_path / "resources.json").write_text(json.dumps([stored("Pipeline", "p")]))
    crds = {"items": [definition("ultramarine.dev", "Sweep")]}

    with pytest.raises(ClusterError, match="the cluster has no kind Pipeline"):
        backup.restore(Release(customresourcedefinitions=crds), "home", tmp_path, "b")


def test_what_kubectl_refuses_has_a_remedy(tmp_path):
    """The user may lack rights, or name a context that does not answer."""
    (tmp_path / "backup.json").write_text(json.dumps({"namespace": "a", "time": "t", "bucket": "b"}))

    with pytest.raises(ClusterError, match="kubectl: Forbidden") as raised:
        backup.restore(Release(), "home", tmp_path, "b")
    assert "check the context" in raised.value.remedy


def test_the_keys_of_any_kind_are_kept():
    """Every kind may show the name of a Secret with keys in its status."""
    keys = {"metadata": {"name": "n-keys"}, "data": {"a": "Yg=="}}
    notebook = {"kind": "Notebook", "metadata": {"name": "n"}, "status": {"keysSecret": "n-keys"}}

    (secret,) = backup._secrets(Release(secret=keys), "team-a", [notebook])

    assert (secret["metadata"]["name"], secret["data"]) == ("n-keys", keys["data"])
