"""Details of each kind for `describe`: progress and results in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from ultramarine_contract.errors import counted

from ultramarine.display.terminal import size_text

Status = dict[str, Any]
Lines = Iterator[tuple[str, str | list[str]]]  # a label with its text, or with a line for each part


def details(kind: str, spec: Status, status: Status) -> Lines:
    """Yield the details of an object; of a kind without own ones, the fields of its status that are plain."""
    yield from ((label, text) for label, text in _KINDS.get(kind, _any)(spec, status) if text)


def _any(spec: Status, status: Status) -> Lines:
    for name, value in status.items():
        if isinstance(value, (str, int, float)) and name not in ("state", "observedGeneration", "requestedBy"):
            yield name, str(value)


def _job(spec: Status, status: Status) -> Lines:
    progress = status.get("progress") or {}
    step = f"step {progress['step']} of {progress.get('totalSteps', '?')}" if "step" in progress else ""
    percent = f"{progress['percent']} %" if "percent" in progress else ""
    left = f"{progress['etaSeconds']} s left" if progress.get("etaSeconds") else ""
    yield "Progress", ", ".join(filter(None, (percent, step, left)))
    latest = (status.get("metrics") or {}).get("latest") or {}
    yield "Metrics", ", ".join(f"{name}={value:g}" for name, value in latest.items())
    yield (
        "Outputs",
        [
            f"{name}: {output['uri']} ({size_text(output['bytes'])})"
            + (f", model version {output['modelVersion']}" if output.get("modelVersion") else "")
            + (f", dataset version {output['datasetVersion']}" if output.get("datasetVersion") else "")
            for name, output in (status.get("outputs") or {}).items()
        ],
    )
    yield (
        "Inputs",
        [f"{name}: {size_text(data['bytes'])}" for name, data in (status.get("inputs") or {}).items()],
    )
    yield "Datasets", [f"{name}: {pin['version']}" for name, pin in (status.get("datasets") or {}).items()]
    history = status.get("attemptHistory") or []
    if len(history) > 1 or status.get("failure"):
        yield "Attempts", [f"{entry['pod']}: {_attempt(entry)}" for entry in history]
    yield "Checkpoint", (status.get("lastCheckpoint") or {}).get("uri", "")
    yield "MLflow", (status.get("mlflow") or {}).get("uri", "")


def _attempt(entry: Status) -> str:
    code = f" (exit code {entry['exitCode']})" if entry.get("exitCode") is not None else ""
    message = f": {entry['message']}" if entry.get("message") else ""
    return f"{entry.get('reason') or 'Running'}{code}{message}"


def _sweep(spec: Status, status: Status) -> Lines:
    counts = ", ".join(f"{count} {state}" for state, count in (status.get("trials") or {}).items() if count)
    yield "Trials", ", ".join(filter(None, (status.get("progress"), counts)))
    yield (
        "Best trials",
        [
            f"{best['trial']}: {_pairs(best.get('values'))} with {_pairs(best.get('params'))}"
            for best in (status.get("best") or [])[:5]
        ],
    )
    yield "Budget used", _pairs(status.get("budgetUsed"))
    yield "Model version", status.get("modelVersion", "")
    yield "Report", (status.get("report") or {}).get("uri", "")


def _endpoint(spec: Status, status: Status) -> Lines:
    yield "URL", status.get("url", "")
    yield "Keys", f"Secret {status['keysSecret']}" if status.get("keysSecret") else ""
    yield "Traffic", ", ".join(f"{name} {share} %" for name, share in (status.get("traffic") or {}).items())
    yield (
        "Deployments",
        [
            f"{entry['name']}: {' '.join(filter(None, (entry.get('state'), entry.get('modelVersion'))))},"
            f" {counted(entry.get('readyReplicas', 0), 'pod')} ready"
            + (f"; {entry['message']}" if entry.get("message") else "")
            for entry in status.get("deployments") or []
        ],
    )
    if rollout := status.get("rollout"):
        yield "Rollout", f"{rollout['phase']}: {rollout.get('message', '')}"
        yield "Gates", [f"{e['gate']}: {e['verdict']}, {e['message']}" for e in rollout.get("evidence") or []]


def _model(spec: Status, status: Status) -> Lines:
    yield "Versions", f"{status.get('versions', 0)}, latest ready {status.get('latestReadyVersion') or 'none'}"
    yield "Aliases", ", ".join(f"{alias} -> {version}" for alias, version in (spec.get("aliases") or {}).items())
    yield "Description", spec.get("description", "")


def _version(spec: Status, status: Status) -> Lines:
    lineage, compiled = spec.get("lineage") or {}, status.get("compiled") or {}
    size = size_text(status["bytes"]) if status.get("bytes") else ""
    yield "Format", ", ".join(filter(None, ((spec.get("format") or {}).get("name"), size)))
    yield "Files", spec.get("uri", "")
    yield "Compiled", compiled.get("uri", "")
    yield "Trained by", " ".join(filter(None, (lineage.get("trainingJob"), lineage.get("sweep"))))
    yield "Metrics", _pairs(lineage.get("metrics"))
    yield "May run code", (status.get("codeExecution") or {}).get("through", "")


def _dataset(spec: Status, status: Status) -> Lines:
    yield from _model(spec, status)
    refresh = status.get("refresh") or {}
    yield "Last refresh", " ".join(filter(None, (refresh.get("outcome"), refresh.get("time"))))
    yield "Next refresh", status.get("nextRefreshTime", "")
    yield "In use", [f"{version}: {users}" for version, users in (status.get("inUse") or {}).items()]


def _dataset_version(spec: Status, status: Status) -> Lines:
    lineage = spec.get("lineage") or {}
    rows = (
        f"{status['rows']:,} rows, {status.get('columnCount', 0):,} columns, " if status.get("rows") is not None else ""
    )
    kind = " ".join(filter(None, (status.get("format"), status.get("type"))))
    yield "Content", f"{kind}, {rows}{counted(status.get('files', 0), 'file')}, {size_text(status.get('bytes', 0))}"
    yield "Files", spec.get("uri", "")
    yield "Profile", f"{status['profile']['uri']}profile.html" if status.get("profile") else ""
    yield "Made by", " ".join(filter(None, (lineage.get("trainingJob"), lineage.get("source"))))
    yield "Query", lineage.get("query", "")
    yield "Made from", ", ".join(lineage.get("inputs") or [])
    for violation in status.get("violations") or []:
        count = f" ({violation['rows']:,} rows)" if violation.get("rows") else ""
        yield f"Broken: {violation['rule']}{count}", violation.get("examples") or "no examples"


def _environment(spec: Status, status: Status) -> Lines:
    packages = (status.get("lock") or {}).get("packages")
    yield (
        "Packages",
        f"{packages}, {status.get('size', '')}, Python {status.get('pythonVersion', '')}" if packages else "",
    )
    yield "Archive", status.get("uri", "")
    yield "Lock", (status.get("lock") or {}).get("uri", "")
    yield "Unused since", status.get("unusedSince") or ""


def _schedule(spec: Status, status: Status) -> Lines:
    from ultramarine.resources.cron import zone_of

    zone = zone_of(spec.get("timeZone") or "")

    def local(field: str) -> str:
        """Return a time in the zone of the Schedule, as its messages have it."""
        moment = status.get(field)
        return datetime.fromisoformat(moment).astimezone(zone).isoformat() if moment else ""

    yield "Template", (spec.get("template") or {}).get("kind", "")
    yield "Next time", local("nextScheduleTime")
    yield "Last time", local("lastScheduleTime")
    yield "Last run", " ".join(filter(None, (status.get("lastRun"), status.get("lastRunState"))))
    yield "Last success", local("lastSuccessfulTime")
    yield "Missed", local("lastMissedTime")
    yield "Active", [f"{run['kind']} {run['name']}" for run in status.get("active") or []]


def _pipeline_run(spec: Status, status: Status) -> Lines:
    yield from _any(spec, status)
    yield "Datasets", list(dataset_lines(status))


def dataset_lines(status: Status) -> Iterator[str]:
    """Yield each reference to a dataset in the steps of a PipelineRun, with the version that they read."""
    for dataset in status.get("datasets") or []:
        yield f"{dataset['reference']}: {dataset.get('version') or 'no version is ready'}"


def _pairs(values: Status | None) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in (values or {}).items()
    )


_KINDS: dict[str, Callable[[Status, Status], Lines]] = {
    "TrainingJob": _job,
    "Sweep": _sweep,
    "OnlineEndpoint": _endpoint,
    "Model": _model,
    "ModelVersion": _version,
    "Environment": _environment,
    "PipelineRun": _pipeline_run,
    "Schedule": _schedule,
    "Dataset": _dataset,
    "DatasetVersion": _dataset_version,
}
