"""The operator among things that are right: it writes nothing; and among vandals: it puts right what is its own."""

from __future__ import annotations

import json
from collections.abc import Callable

from bare import eventually
from stories import ALL, OURS, everything, state, there, wait_until_quiet
from ultramarine_contract.meta import ANNOTATION_APPROVED_BY, ANNOTATION_REQUESTED_BY, ANNOTATION_TRUSTED_BY


def test_passes_over_what_is_right_write_nothing(settled, operator):
    """A restart and a touched label make passes over every object, and not one write."""
    wait_until_quiet(settled, operator)
    before = everything(settled)
    operator.stop()
    operator.start()
    eventually("passes over all", lambda: all(operator.passes(k) for k in ("TrainingJob", "Model", "OnlineEndpoint")))
    seen = operator.passes("TrainingJob"), operator.passes("OnlineEndpoint")
    settled.run("label", "tj/busy", "oe/shop", "colour=red")
    eventually(
        "passes over the touched ones",
        lambda: operator.passes("TrainingJob") > seen[0] and operator.passes("OnlineEndpoint") > seen[1],
    )
    wait_until_quiet(settled, operator)

    after = everything(settled)
    assert {name for name in after if after[name] != before.get(name)} == {"TrainingJob/busy", "OnlineEndpoint/shop"}
    assert before.keys() == after.keys()
    assert operator.writes() == {}


def test_nothing_of_kopf_is_in_our_objects(settled):
    """No finalizer and no field manager of kopf's is in any object, and no annotation but those of the API server."""
    for found in settled.all(*ALL):
        meta = found["metadata"]
        assert not meta.get("finalizers"), found["kind"]
        assert "kopf" not in json.dumps(found).lower(), found["kind"]
    for found in settled.all(*OURS):
        noted = {name for name in found["metadata"].get("annotations", {}) if not name.startswith("kubectl.")}
        assert noted <= {ANNOTATION_REQUESTED_BY, ANNOTATION_APPROVED_BY, ANNOTATION_TRUSTED_BY}, found["kind"]


def test_what_hands_spoil_is_restored(settled):
    """A child that was edited or deleted by hand comes back as it should be."""

    def restored(what: str, look: Callable[[], bool]) -> None:
        eventually(f"{what} is restored", look)

    settled.run("patch", "cm/busy-source", "--type=merge", "-p", '{"data": {"train.py": "evil()"}}')
    restored("the source", lambda: settled.get("cm", "busy-source")["data"]["train.py"] == "print(1)")
    settled.run("delete", "cm/busy-source")
    restored("the source", lambda: there(settled, "cm", "busy-source") is not None)

    settled.run("scale", "deployment/shop-blue", "--replicas=7")
    restored("the scale", lambda: settled.get("deployment", "shop-blue")["spec"]["replicas"] == 2)
    settled.run("set", "image", "deployment/shop-blue", "server=evil:1")
    image = "ultramarine/server:1"
    restored(
        "the image",
        lambda: settled.get("deployment", "shop-blue")["spec"]["template"]["spec"]["containers"][0]["image"] == image,
    )
    settled.run("label", "deployment/shop-blue", "ultramarine.dev/deployment=green", "--overwrite")
    restored(
        "the label",
        lambda: settled.get("deployment", "shop-blue")["metadata"]["labels"]["ultramarine.dev/deployment"] == "blue",
    )
    settled.run("delete", "deployment/shop-blue", "service/shop", "poddisruptionbudget/shop-blue", "--wait=false")
    restored("the Deployment", lambda: there(settled, "deployments", "shop-blue") is not None)
    restored("the Service", lambda: there(settled, "services", "shop") is not None)
    restored("the disruption budget", lambda: there(settled, "poddisruptionbudgets", "shop-blue") is not None)

    settled.run("patch", "service/shop", "--type=json", "-p", '[{"op": "remove", "path": "/spec/selector"}]')
    restored("the selector", lambda: "selector" in settled.get("service", "shop")["spec"])
    settled.run("patch", "tj/busy", "--subresource=status", "--type=merge", "-p", '{"status": {"state": "Failed"}}')
    restored("the state", lambda: state(settled, "busy") == "Running")
    settled.run("delete", "job/busy")
    restored("the Job", lambda: there(settled, "jobs", "busy") is not None)


def test_a_child_that_somebody_relabelled_is_still_ours(settled):
    """Labels by which we find children are anybody's to change: the owner hears of it, and puts all of it right."""
    mine = {"ultramarine.dev/kind", "ultramarine.dev/name", "app.kubernetes.io/managed-by"}

    def labels(kind: str, name: str) -> set[str]:
        return mine & {
            label
            for label, value in settled.get(kind, name)["metadata"].get("labels", {}).items()
            if value in ("ultramarine", "OnlineEndpoint", "TrainingJob", "shop", "busy")
        }

    for kind, name in (("service", "shop"), ("deployment", "shop-blue"), ("cm", "busy-source"), ("job", "busy")):
        settled.run(
            "label", f"{kind}/{name}", "ultramarine.dev/name=other", "ultramarine.dev/kind=Other", "--overwrite"
        )
        eventually(f"{kind} has its labels back", lambda kind=kind, name=name: labels(kind, name) == mine)
        settled.run(
            "label", f"{kind}/{name}", "app.kubernetes.io/managed-by-"
        )  # out of sight: the watches select by it
        eventually(f"{kind} is in sight again", lambda kind=kind, name=name: labels(kind, name) == mine)
    settled.run("label", "service/shop", "ultramarine.dev/name=other", "--overwrite")
    settled.run("patch", "service/shop", "--type=json", "-p", '[{"op": "remove", "path": "/spec/selector"}]')
    eventually("the selector is back", lambda: "selector" in settled.get("service", "shop")["spec"])
    assert state(settled, "busy") == "Running"
