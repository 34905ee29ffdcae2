"""Deletion of the artifacts of versions that are gone, and of their compiled models, if the Model says Delete.

A version has no finalizer: it would hold its namespace forever if the operator was uninstalled first. The Model's
status remembers what its versions have stored, so that the files of a version that is gone are deleted later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ultramarine.resources import model as resources
from ultramarine.resources.model import MAX_ARTIFACTS, version_name, version_number
from ultramarine_contract.common import artifact_folder, compiled_folder, compiled_of
from ultramarine_contract.errors import counted, listed
from ultramarine_contract.meta import JOB, Key, Manifest, Ref, controller_uid

from ...runs import JobView
from ...shared.conditions import Condition, parse_timestamp
from ...shared.plan import Event, Platform, Seen
from .manifests import delete_job, delete_job_name
from .serving import Model, server_of, versions_of

CONDITION = "ArtifactsDeleted"
AT_ONCE = 4  # Jobs
RETRY = timedelta(minutes=5)  # after a Job has failed, with retries of its own
LOOK_AGAIN = timedelta(seconds=30)


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


def deletion(model: Model, seen: Seen, now: datetime) -> Deletion:
    """Return the next steps for the artifacts of versions that are gone.

    The status goes first, both ways. A later pass deletes the files of a version that the status says to be gone: by
    then the topics bring every version of the same files. A Job that is over goes when the status has forgotten its
    artifact.
    """
    jobs = [job for job in _own_jobs(model, seen) if not job.is_leaving]
    if model.spec.deletion_policy == "Retain":
        return Deletion(delete=tuple(job.ref for job in jobs))
    versions, remembered = versions_of(model, seen), _remembered(model, seen.platform)
    existing = [artifact for version in versions for artifact in _artifacts(version)]
    # Artifacts of an existing version, though its status may not name them now.
    digests = {(str(v["spec"]["version"]), _digest(v)) for v in versions}
    existing += [
        replace(artifact, deleting=False)
        for artifact in remembered
        if (artifact.version, compiled_of(artifact.uri)) in digests
        and replace(artifact, deleting=False) not in existing
    ]
    needed = {delete_job_name(model, artifact.version, artifact.uri) for artifact in remembered if artifact.deleting}
    steps = _Steps(AT_ONCE - len(jobs), delete=[job for job in jobs if job.name not in needed])
    for artifact in remembered:
        if replace(artifact, deleting=False) in existing:
            continue  # or again, with the same files
        if artifact.deleting:
            _delete(artifact, model, seen, now, steps)
        else:
            steps.left.append(replace(artifact, deleting=True))
            steps.waits.append(f"version {artifact.version} is gone")
    own = (artifact for artifact in existing if is_ours(artifact.uri, model, seen.platform))
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


def may_go(model: Model, version: Manifest, platform: Platform) -> bool:
    """True if retention may delete the version: with deletionPolicy Delete its artifacts must be remembered before."""
    if model.spec.deletion_policy == "Retain":
        return True
    own = {artifact for artifact in _artifacts(version) if is_ours(artifact.uri, model, platform)}
    return own <= {*_remembered(model, platform)}


def _artifacts(version: Manifest) -> list[Artifact]:
    """Return the artifacts of a version: its own files, and its compiled model."""
    number, compiled = str(version["spec"]["version"]), (version.get("status") or {}).get("compiled") or {}
    places = (str(version["spec"]["uri"]), compiled_folder(str(compiled.get("uri", ""))))
    return [Artifact(number, place) for place in places if place]


def _digest(version: Manifest) -> str:
    """Return the beginning of a version's digest, which names the place of its compiled model."""
    return str(version["spec"].get("digest", "")).removeprefix("sha256:")[:16]


def is_ours(uri: str, model: Model, platform: Platform) -> bool:
    """True if a TrainingJob or a compile Job of the namespace has stored it: nothing else is ever deleted."""
    is_folder = uri in (artifact_folder(uri), compiled_folder(uri))
    return is_folder and uri.startswith(f"s3://{platform.storage_bucket}/{model.namespace}/")


def places_of(version: Manifest) -> tuple[str, str]:
    """Return the topics by which a version meets a Model that is about to delete its files or its compiled model."""
    uri = str(version["spec"].get("uri", ""))
    return artifact_folder(uri) or uri, f"compiled/{_digest(version)}"


def places_to_delete(model: Manifest) -> Iterator[str]:
    """Return the topics of the folders that a Model is about to delete, and of all that they lie in."""
    for artifact in (model.get("status") or {}).get("artifacts") or []:
        uri = str(artifact.get("uri", ""))
        if artifact.get("deleting") and artifact_folder(uri) == uri:
            parts = uri.split("/")
            yield from ("/".join(parts[:end]) + "/" for end in range(3, len(parts)))
        if artifact.get("deleting") and (digest := compiled_of(uri)):
            yield f"compiled/{digest}"


def _remembered(model: Model, platform: Platform) -> list[Artifact]:
    """Return the artifacts in the status that may be deleted: whoever may write a status may have added others."""
    artifacts = [
        Artifact(str(a.get("version", "")), str(a.get("uri", "")), bool(a.get("deleting")))
        for a in model.status.get("artifacts") or []
        if isinstance(a, dict)
    ]
    return [a for a in artifacts if version_number(a.version) and is_ours(a.uri, model, platform)]


def _delete(artifact: Artifact, model: Model, seen: Seen, now: datetime, steps: _Steps) -> None:
    """Take one step with an artifact whose version is gone."""
    name = version_name(model.name, artifact.version)
    sharing = [v["metadata"]["name"] for v in seen.others("ModelVersion") if _overlaps(v, artifact)]
    if sharing:
        message = f"{artifact.uri} of {name} stays, for it is also of {listed(sharing, 5)}"
        steps.events.append(Event("ArtifactRetained", message))
        return
    title = delete_job_name(model, artifact.version, artifact.uri)
    job = JobView.find(model, title, seen)
    if job is not None and job.is_leaving:
        steps.left.append(artifact)
        steps.waits.append(f"Job {title} is being deleted, and made again when it is gone")
        return
    if job is not None and job.complete:
        steps.events.append(Event("ArtifactDeleted", f"{artifact.uri} of {name} is deleted"))
        return
    steps.left.append(artifact)
    if server := server_of(model, artifact.version, seen):
        steps.waits.append(f"{name} is still served by {server}")
        steps.after.append(LOOK_AGAIN)
    elif job is None:
        if len(steps.apply) >= steps.room:
            return
        steps.waits.append(f"Job {title} deletes {artifact.uri}")
        steps.apply.append(delete_job(model, artifact.version, artifact.uri, seen.platform))
        if artifact.version not in {v["spec"]["version"] for v in versions_of(model, seen)}:
            steps.absent.append(Key("ModelVersion", model.namespace, name))
    else:
        steps.waits.append(f"Job {title} deletes {artifact.uri}{_trouble(job)}")
        if failure := job.failure:
            steps.failed = True
            left = parse_timestamp(str(failure.get("lastTransitionTime", ""))) + RETRY - now
            if left > timedelta(0):
                steps.after.append(left)
            else:
                steps.delete.append(job)


def _own_jobs(model: Model, seen: Seen) -> list[JobView]:
    return [JobView.of(job, seen) for job in seen.of(JOB.kind) if controller_uid(job) == model.uid]


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
