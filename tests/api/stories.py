"""Objects and queries that the operator's stories share."""

from __future__ import annotations

import time
from pathlib import Path

from bare import Api, eventually
from builders import serving as serving
from builders import training as training
from operator_process import Node, Operator
from ultramarine_contract.meta import TRAINING_JOB, Manifest
from ultramarine_contract.storage import Storage
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.conditions import is_true
from ultramarine_operator.shared.testing import applied

OURS = tuple(kind.short for kind in KINDS)
CHILDREN = {child.plural for kind in KINDS for child in (*kind.children, *kind.creates)}
ALL = (*OURS, *sorted(CHILDREN - {kind.resource.plural for kind in KINDS}), "events")


def status(api: Api, kind: str, name: str) -> Manifest:
    """Return the status of an object; empty without a status."""
    read: Manifest = api.get(kind, name).get("status") or {}
    return read


def state(api: Api, name: str) -> str:
    """The state of a TrainingJob."""
    return str(status(api, "tj", name).get("state", ""))


def until(api: Api, name: str, word: str, seconds: float = 60) -> None:
    """Wait until a TrainingJob is in that state."""
    eventually(f"TrainingJob {name} is {word}", lambda: state(api, name) == word, seconds)


def there(api: Api, kind: str, name: str) -> Manifest | None:
    """Return an object, or None if it does not exist."""
    return next((item for item in api.all(kind) if item["metadata"]["name"] == name), None)


def reasons(api: Api, name: str) -> set[str]:
    """Return the reasons of the events about objects of a name; each event comes after its status."""
    return {event["reason"] for event in api.all("events") if event["involvedObject"]["name"] == name}


def versions(api: Api, model: str) -> list[str]:
    """The names of a model's versions."""
    return [v["metadata"]["name"] for v in api.all("mv") if v["spec"]["model"] == model]


def partitioned(api: Api, store: Storage, folder: Path) -> None:
    """Make the Dataset orders, whose version 1 has one partition."""
    (folder / "month=2026-01").mkdir(parents=True)
    (folder / "month=2026-01" / "orders.bin").write_bytes(b"7")
    output = store.upload_folder(folder, f"s3://lake/{api.namespace}/datasets/orders")
    spec = {"dataset": "orders", "version": "1", "uri": output.uri, "digest": output.digest}
    api.apply(applied("Dataset", "orders", {"type": "folder"}), applied("DatasetVersion", "orders-1", spec))
    eventually("orders@1 is ready", lambda: status(api, "dset", "orders").get("latestReadyVersion") == "1")


def trained(api: Api, node: Node, name: str) -> None:
    """Run a TrainingJob from its creation to success."""
    api.apply(training(name))
    node.start_pod(name)
    node.succeed(name, node.upload(name))
    until(api, name, "Succeeded")


def ready(api: Api, version: str) -> bool:
    """True if a ModelVersion can be served."""
    return is_true(status(api, "mv", version), "Ready")


def flood(api: Api, first: int, last: int) -> None:
    """Create TrainingJobs as fast as one client can."""
    for number in range(first, last):
        answer = api.http.post(TRAINING_JOB.path(api.namespace), json=training(f"job-{number}"))
        assert answer.status_code == 201, answer.text


def everything(api: Api) -> dict[str, str]:
    """Every object with the version of its last write."""
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in api.all(*ALL)}


def wait_until_quiet(api: Api, operator: Operator) -> None:
    """Wait until nothing was written for a second, and no object waits for a pass."""
    before: dict[str, str] = {}

    def quiet() -> bool:
        nonlocal before
        before, known = everything(api), before
        time.sleep(0 if before != known else 1)
        due = operator.probe("/readyz")[1].get("queue", {}).get("due")
        return due == 0 and before == known == everything(api)

    eventually("nothing is written any more", quiet)


def jobs(api: Api) -> int:
    """Return the number of TrainingJobs that have their Job."""
    return len(api.all("jobs"))
