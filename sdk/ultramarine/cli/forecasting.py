"""Forecast of a Pipeline's run as lines: steps, pods and the estimated time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ultramarine_contract import cache_lookup
from ultramarine_contract.cache_records import CacheRecord, latest_uri
from ultramarine_contract.errors import InvalidSpec, StorageError, counted
from ultramarine_contract.meta import DATASET, DATASET_VERSION, ENVIRONMENT, MODEL, PIPELINE_RUN
from ultramarine_contract.partitions import Partition, read_partitions

from ultramarine.files.plan import pods_of, stored
from ultramarine.files.schemas import kind_named
from ultramarine.kube.errors import NotFound
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady, look_up
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import check, parameter_values
from ultramarine.resources.pipeline_keys import Parts
from ultramarine.runs.forecast import Forecaster, StepForecast, estimate, seconds_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.client import Client

_HISTORY = 20  # runs
_LOOKED_UP = (DATASET, DATASET_VERSION, ENVIRONMENT, MODEL)


def forecast_of(client: Client, manifest: Manifest, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about a run of a Pipeline with these parameters. Raises InvalidSpec for faults of either."""
    spec, name = PipelineSpec.model_validate(manifest["spec"]), str(manifest["metadata"]["name"])
    check(spec)
    try:
        params = parameter_values(spec, given)
    except InvalidSpec as error:
        if given:
            raise
        yield f"no run: {error.message}"
        return
    runs = [run for run in client.cluster.list(PIPELINE_RUN) if run["spec"].get("pipeline") == name]
    runs.sort(key=lambda run: str(run["metadata"].get("creationTimestamp", "")), reverse=True)
    history = seconds_of(runs[:_HISTORY])
    steps = list(Forecaster(spec, params, _Live(client, name), history).steps())
    for step in steps:
        yield f"step {step.name}: {step.action}, {step.reason}"
        if step.action == "runs":
            yield from (f"  {line}" for line in _costs(step))
    seconds, unknown = estimate(steps)
    running = sum(step.action == "runs" for step in steps)
    time = f"about {seconds:.0f} s by earlier runs" if seconds else "no earlier run shows the time"
    lacking = f"; unknown: {', '.join(unknown[:5])}" if unknown and seconds else ""
    yield f"{running} of {counted(len(steps), 'step')} would run, {time}{lacking}"


class _Live:
    """The cluster and the storage as they are now."""

    def __init__(self, client: Client, pipeline: str) -> None:
        self._client, self._pipeline = client, pipeline
        self._bucket = client.platform.facts.bucket
        self._objects: dict[tuple[str, str], Manifest | None] = {}

    def look_up(self, step: str, parts: Parts) -> cache_lookup.CacheAnswer:
        """Look for a record of a step's work."""
        place = cache_lookup.Place(self._bucket, self._client.namespace, self._pipeline, step)
        try:
            return cache_lookup.look_up(self._client.storage, place, parts.values, parts.contents)
        except StorageError as error:
            return cache_lookup.CacheAnswer("", (), miss=error.message)

    def image(self, step: str) -> str:
        """Return the image of the latest record: that of the platform is taken as unchanged."""
        place = latest_uri(self._bucket, self._client.namespace, self._pipeline, step)
        try:
            record = CacheRecord.from_json(self._client.storage.read(place))
        except (StorageError, ValueError):
            return ""
        return record.parts.get("image", "")

    def environment(self, name: str) -> str:
        """Return the digest of a named Environment; empty if it is not built."""
        built = self.find(ENVIRONMENT.kind, name) or {}
        return str((built.get("status") or {}).get("digest") or "")

    def version(self, reference: str) -> DatasetPin | NotReady:
        """Return the version of a dataset that a reference leads to now."""
        return look_up(reference, self.find)

    def partitions(self, pin: DatasetPin) -> tuple[Partition, ...]:
        """Return the partitions of a version. Raises StorageError."""
        return read_partitions(self._client.storage, pin.uri, pin.digest)

    def find(self, kind: str, name: str) -> Manifest | None:
        """Return an object as it was when it was first asked for; None if it did not exist."""
        if (kind, name) not in self._objects:
            resource = next(resource for resource in _LOOKED_UP if resource.kind == kind)
            try:
                self._objects[kind, name] = self._client.cluster.get(resource, name)
            except NotFound:
                self._objects[kind, name] = None
        return self._objects[kind, name]


def _costs(step: StepForecast) -> Iterator[str]:
    """Yield the pods and the time of a step that runs."""
    try:
        spec = stored(kind_named(step.kind), {"spec": step.document}) if step.kind in ("TrainingJob", "Sweep") else {}
        pods = list(pods_of(step.kind, spec)) if spec else []
    except (TypeError, KeyError):
        pods = []  # their number is the result of another step
    for group in pods:
        requests = ", ".join(f"{name} {amount}" for name, amount in group.requests.items())
        with_ = f"each with {requests}" if requests else "with the default resources"
        yield f"pods: {group.most} of {group.what}, {with_}"
    if step.seconds is not None:
        yield f"time: about {step.seconds:.0f} s"
