"""A Model that deletes what its versions have stored, before a real API server, with the real operator."""

from __future__ import annotations

from bare import DIGEST, Api, eventually
from hands import complete_job
from stories import reasons, status
from ultramarine_contract.meta import API_VERSION, JOB, MODEL_VERSION, Manifest


def uri(api: Api, number: int) -> str:
    """Return the URI at which a TrainingJob would have stored the model."""
    return f"s3://lake/{api.namespace}/trainingjobs/churn/0a-1b/model/{number:016x}/"


def model(**spec: object) -> Manifest:
    """The Model churn, which deletes."""
    whole = {"deletionPolicy": "Delete", **spec}
    return {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "churn"}, "spec": whole}


def version(model: str, number: int, uri: str) -> Manifest:
    """A version of a Model."""
    spec = {"model": model, "version": str(number), "uri": uri, "digest": DIGEST, "format": {"name": "sklearn"}}
    return {"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": f"{model}-{number}"}, "spec": spec}


def remembered(api: Api) -> list[str]:
    """The numbers of the versions whose artifacts the Model has in mind."""
    return sorted(each["version"] for each in status(api, "mdl", "churn").get("artifacts", []))


def jobs(api: Api) -> list[str]:
    """The beginnings of the names of the Jobs."""
    return sorted(job["metadata"]["name"].rpartition("-")[0] for job in api.all("jobs"))


def test_a_version_that_goes_while_the_operator_is_away_takes_its_artifact_along(api, operator):
    """Deleted by hand: a Job for the one, none for the files that another version is of; nothing has a finalizer."""
    shared = version("shop", 1, uri(api, 2))
    api.apply(model(), shared, *(version("churn", number, uri(api, number)) for number in (1, 2, 3)))
    eventually("all are remembered", lambda: remembered(api) == ["1", "2", "3"])
    assert not any(found["metadata"].get("finalizers") for found in api.all("mdl", "mv"))
    operator.kill()
    api.run("delete", "mv", "churn-1", "churn-2")
    operator.start()
    eventually("its Job is there", lambda: jobs(api) == ["churn-1-delete"])
    eventually("the other is forgotten", lambda: remembered(api) == ["1", "3"])
    (job,) = api.all("jobs")
    api.status(
        "job", job["metadata"]["name"], {"startTime": job["metadata"]["creationTimestamp"], **complete_job(False)}
    )
    eventually("it is done", lambda: remembered(api) == ["3"])
    eventually("its diary is whole", lambda: {"ArtifactRetained", "ArtifactDeleted"} <= reasons(api, "churn"))


def test_retain_stops_what_is_going_on(api, operator):
    """Set back to Retain, the Job is deleted, and the status forgets the artifacts."""
    api.apply(model(), version("churn", 1, uri(api, 1)))
    eventually("it is remembered", lambda: remembered(api) == ["1"])
    assert api.http.delete(MODEL_VERSION.path(api.namespace, "churn-1")).is_success
    eventually("its Job is there", lambda: jobs(api) == ["churn-1-delete"])
    api.apply(model(deletionPolicy="Retain"))

    def going() -> bool:
        # No collector of garbage is here: a Job that is deleted in the foreground stays with its finalizer.
        return all(job["metadata"].get("deletionTimestamp") for job in api.all(JOB.kind))

    eventually("the Job goes", going)
    eventually("nothing is remembered", lambda: remembered(api) == [])
