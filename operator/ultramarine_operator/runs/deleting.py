"""Deletion of the artifacts of versions that are gone, if their Model or Dataset says Delete.

A version has no finalizer: it would hold its namespace forever if the operator was uninstalled first. The status of its
owner remembers what versions have stored, so that the files of a version that is gone are deleted later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ultramarine.resources import model as resources
from ultramarine.resources.model import MAX_ARTIFACTS, version_name, version_number
from ultramarine_contract.common import ENV_TASK, compiled_of, stored_folder
from ultramarine_contract.errors import counted, listed
from ultramarine_contract.meta import (
    DATASET_VERSION,
    JOB,
    MODEL_VERSION,
    Key,
    Manifest,
    Ref,
    Resource,
    content_hash,
    controller_uid,
)
from ultramarine_contract.version_records import DeleteTask

from ..shared.conditions import Condition, parse_timestamp
from ..shared.plan import Event, Obj, Platform, Seen
from ..shared.podspec import storage_env, tls_mounts
from .serverjobs import TMP, server_container, server_job, server_pod, storage_keys
from .views import JobView

CONDITION = "ArtifactsDeleted"
AT_ONCE = 4  # Jobs
RETRY = timedelta(minutes=5)  # after a Job has failed, with retries of its own
LOOK_AGAIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Series:
    """A Model or a Dataset, with its versions and what they have stored.

    `places` returns the folders of a version, of which only those are deleted that one of `folders` returns unchanged.
    `user_of` tells what still uses a version, by its number: "served by OnlineEndpoint shop"; empty if nothing does.
    """

    owner: Obj[Any]
    version: Resource
    versions: list[Manifest]
    places: Callable[[Manifest], Iterable[str]]
    folders: tuple[Callable[[str], str], ...]
    user_of: Callable[[str], str]

    def artifacts(self, version: Manifest) -> list[Artifact]:
        """Return the artifacts of a version."""
        number = str(version["spec"]["version"])
        return [Artifact(number, place) for place in self.places(version) if place]

    def is_ours(self, uri: str, platform: Platform) -> bool:
        """True if the platform has stored it for the namespace: nothing else is ever deleted."""
        is_folder = any(folder(uri) == uri for folder in self.folders)
        return is_folder and uri.startswith(f"s3://{platform.storage_bucket}/{self.owner.namespace}/")


@dataclass(frozen=True)
class Artifact:
    """One artifact of a version; `deleting` once the status has said that the version is gone."""

    version: str
    uri: str
    deleting: bool = False

    @property
    def status(self) -> resources.Artifact:
        """Return it as the status has it."""
        fields: dict[str, Any] = {"deleting": True} if self.deleting else {}
        return resources.Artifact.model_construct(version=self.version, uri=self.uri, **fields)


@dataclass(frozen=True)
class Deletion:
    """Results of a pass; the fields are those of a Plan and of the status."""

    artifacts: tuple[Artifact, ...] = ()
    conditions: tuple[Condition, ...] = ()
    apply: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    absent: tuple[Key, ...] = ()
    events: tuple[Event, ...] = ()
    after: timedelta | None = None


@dataclass
class _Steps:
    """The same while it is gathered, with a sentence for each artifact that still exists."""

    room: int  # for further Jobs
    left: list[Artifact] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    apply: list[Manifest] = field(default_factory=list)
    delete: list[JobView] = field(default_factory=list)
    absent: list[Key] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    after: list[timedelta] = field(default_factory=list)
    failed: bool = False


def deletion(series: Series, seen: Seen, now: datetime) -> Deletion:
    """Return the next steps for the artifacts of versions that are gone.

    The status goes first, both ways. A later pass deletes the files of a version that the status says to be gone: by
    then the topics bring every version of the same files. A Job that is over goes when the status has forgotten its
    artifact.
    """
    owner = series.owner
    jobs = [job for job in _own_jobs(owner, seen) if not job.is_leaving]
    if owner.spec.deletion_policy == "Retain":
        return Deletion(delete=tuple(job.ref for job in jobs))
    remembered = _remembered(series, seen.platform)
    existing = [artifact for version in series.versions for artifact in series.artifacts(version)]
    # Artifacts of an existing version, though its status may not name them now.
    digests = {(str(v["spec"]["version"]), _digest(v)) for v in series.versions}
    existing += [
        replace(artifact, deleting=False)
        for artifact in remembered
        if (artifact.version, compiled_of(artifact.uri)) in digests
        and replace(artifact, deleting=False) not in existing
    ]
    needed = {delete_job_name(owner, artifact.version, artifact.uri) for artifact in remembered if artifact.deleting}
    steps = _Steps(AT_ONCE - len(jobs), delete=[job for job in jobs if job.name not in needed])
    for artifact in remembered:
        if replace(artifact, deleting=False) in existing:
            continue  # or again, with the same files
        if artifact.deleting:
            _delete(artifact, series, seen, now, steps)
        else:
            steps.left.append(replace(artifact, deleting=True))
            steps.waits.append(f"version {artifact.version} is gone")
    own = (artifact for artifact in existing if series.is_ours(artifact.uri, seen.platform))
    living = sorted(own, key=lambda artifact: (version_number(artifact.version), artifact.uri))
    kept = (*steps.left, *living)[:MAX_ARTIFACTS]
    if set(kept) != set(remembered):
        steps.after.append(timedelta(0))
    return Deletion(
        kept,
        (_condition(steps, len(living), len(kept) - len(steps.left)),),
        tuple(steps.apply),
        tuple(job.ref for job in steps.delete),
        tuple(steps.absent),
        tuple(steps.events),
        min(steps.after, default=None),
    )


def may_go(series: Series, version: Manifest, platform: Platform) -> bool:
    """True if retention may delete the version: with deletionPolicy Delete its artifacts must be remembered before."""
    if series.owner.spec.deletion_policy == "Retain":
        return True
    own = {artifact for artifact in series.artifacts(version) if series.is_ours(artifact.uri, platform)}
    return own <= {*_remembered(series, platform)}


def _digest(version: Manifest) -> str:
    """Return the beginning of a version's digest, which names the place of its compiled model."""
    return str(version["spec"].get("digest", "")).removeprefix("sha256:")[:16]


def place_of(version: Manifest) -> str:
    """Return the topic by which a version meets a Model or a Dataset that is about to delete its files."""
    uri = str(version["spec"].get("uri", ""))
    return stored_folder(uri) or uri


def compiled_place(version: Manifest) -> str:
    """Return the topic by which a version meets a Model that is about to delete its compiled model."""
    return f"compiled/{_digest(version)}"


def places_to_delete(owner: Manifest) -> Iterator[str]:
    """Return the topics of the folders that an owner is about to delete, and of all that they lie in."""
    for artifact in (owner.get("status") or {}).get("artifacts") or []:
        uri = str(artifact.get("uri", ""))
        if artifact.get("deleting") and stored_folder(uri) == uri:
            parts = uri.split("/")
            yield from ("/".join(parts[:end]) + "/" for end in range(3, len(parts)))
        if artifact.get("deleting") and (digest := compiled_of(uri)):
            yield f"compiled/{digest}"


def delete_job_name(owner: Obj[Any], number: str, uri: str) -> str:
    """The name of the Job that deletes what a version had stored; a version made again may have stored it elsewhere."""
    kind = owner.manifest["kind"]  # a Model and a Dataset may have one name
    return f"{version_name(owner.name, number)}-delete-{content_hash([kind, uri])[:4]}"


def delete_job(owner: Obj[Any], number: str, uri: str, platform: Platform) -> Manifest:
    """The Job whose pod deletes the artifact of a version that is gone."""
    container = {
        **server_container("delete", platform),
        "env": [{"name": ENV_TASK, "value": DeleteTask(uri).to_json()}, *storage_env(platform)],
        **storage_keys(platform),
        "volumeMounts": [TMP, *tls_mounts(platform)],
    }
    pod = server_pod(platform, containers=[container], volumes=("tmp",))
    return server_job(owner, delete_job_name(owner, number, uri), pod)


def _remembered(series: Series, platform: Platform) -> list[Artifact]:
    """Return the artifacts in the status that may be deleted: whoever may write a status may have added others."""
    artifacts = [
        Artifact(str(a.get("version", "")), str(a.get("uri", "")), bool(a.get("deleting")))
        for a in series.owner.status.get("artifacts") or []
        if isinstance(a, dict)
    ]
    return [a for a in artifacts if version_number(a.version) and series.is_ours(a.uri, platform)]


def _delete(artifact: Artifact, series: Series, seen: Seen, now: datetime, steps: _Steps) -> None:
    """Take one step with an artifact whose version is gone."""
    owner, name = series.owner, version_name(series.owner.name, artifact.version)
    others = (*seen.others(MODEL_VERSION.kind), *seen.others(DATASET_VERSION.kind))
    sharing = [v["metadata"]["name"] for v in others if _overlaps(v, artifact)]
    if sharing:
        message = f"{artifact.uri} of {name} stays, for it is also of {listed(sharing, 5)}"
        steps.events.append(Event("ArtifactRetained", message))
        return
    title = delete_job_name(owner, artifact.version, artifact.uri)
    job = JobView.find(owner, title, seen)
    if job is not None and job.is_leaving:
        steps.left.append(artifact)
        steps.waits.append(f"Job {title} is being deleted, and made again when it is gone")
        return
    if job is not None and job.complete:
        steps.events.append(Event("ArtifactDeleted", f"{artifact.uri} of {name} is deleted"))
        return
    steps.left.append(artifact)
    if user := series.user_of(artifact.version):
        steps.waits.append(f"{name} is still {user}")
        steps.after.append(LOOK_AGAIN)
    elif job is None:
        if len(steps.apply) >= steps.room:
            return
        steps.waits.append(f"Job {title} deletes {artifact.uri}")
        steps.apply.append(delete_job(owner, artifact.version, artifact.uri, seen.platform))
        if artifact.version not in {v["spec"]["version"] for v in series.versions}:
            steps.absent.append(Key(series.version.kind, owner.namespace, name))
    else:
        steps.waits.append(f"Job {title} deletes {artifact.uri}{_trouble(job)}")
        if failure := job.failure:
            steps.failed = True
            left = parse_timestamp(str(failure.get("lastTransitionTime", ""))) + RETRY - now
            if left > timedelta(0):
                steps.after.append(left)
            else:
                steps.delete.append(job)


def _own_jobs(owner: Obj[Any], seen: Seen) -> list[JobView]:
    return [JobView.of(job, seen) for job in seen.of(JOB.kind) if controller_uid(job) == owner.uid]


def _overlaps(version: Manifest, artifact: Artifact) -> bool:
    uri = str(version["spec"]["uri"])
    if digest := compiled_of(artifact.uri):
        return _digest(version) == digest  # equal models are compiled in one place
    return uri.startswith(artifact.uri) or (uri.endswith("/") and artifact.uri.startswith(uri))


def _trouble(job: JobView) -> str:
    """Return the failure or the trouble of the newest pod that has any."""
    for pod in reversed(job.pods):
        if pod.has_failed:
            return f": {pod.verdict.sentence}"
        if (trouble := pod.trouble) is not None:
            return f": {trouble.message}"
    return ""


def _condition(steps: _Steps, living: int, remembered: int) -> Condition:
    if steps.left:
        ways = "to keep what is left set spec.deletionPolicy to Retain"
        reason = "DeletionFailed" if steps.failed else "Deleting"
        gone = len({artifact.version for artifact in steps.left})
        message = f"of {counted(gone, 'version')} that cannot be found: {'; '.join(steps.waits[:AT_ONCE])}; {ways}"
        return Condition(CONDITION, False, reason, message)
    if not living:
        return Condition(CONDITION, True, "NothingLeft", "no version has an artifact that is to be deleted")
    message = f"{living} artifacts are deleted when their versions are"
    if remembered < living:
        message += f", of which only {remembered} can be remembered, those of the oldest"
    # Not True: a user who deletes all versions and waits for the condition must not find it as it was before.
    return Condition(CONDITION, False, "VersionsExist", message)
