"""Objects of files other than runs: applied, or joined to an endpoint that exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import ONLINE_ENDPOINT, PIPELINE, SCHEDULE

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.client import Client
    from ultramarine.files.reading import Document


def apply_file(
    client: Client, manifest: Manifest, file: Path, note: Callable[[str], None], *, dry_run: bool = False
) -> Manifest:
    """Apply an object of a file, and return it. Deployments of an Azure ML file join those of their endpoint."""
    from ultramarine.azureml import turns_traffic
    from ultramarine.kube.errors import NotFound
    from ultramarine.serving.deploying import joined_spec

    resource, name = client.kinds.of(manifest), str(manifest["metadata"]["name"])
    turns = turns_traffic(file) if resource == ONLINE_ENDPOINT else None
    if turns is not None:
        try:
            live = client.cluster.get(resource, name)
        except NotFound:
            pass
        else:
            spec = joined_spec(live, manifest["spec"], turns_traffic=turns)
            if dry_run:
                return client.cluster.patch(resource, name, {"spec": spec}, dry_run=True)
            made = client.endpoint(name).change(
                lambda current: joined_spec(current, manifest["spec"], turns_traffic=turns)
            )
            note(f"OnlineEndpoint {name} changed; its traffic: {shares_of(made)}. {next_commands(name)}")
            return made
    made = client.apply(manifest, dry_run, note=note)
    if not dry_run:
        note(f"{resource.kind} {name} applied. {next_commands(name) if resource == ONLINE_ENDPOINT else ''}".rstrip())
    return made


def schedule_warnings(client: Client, manifest: Manifest) -> Iterator[str]:
    """Yield the faults of what a Schedule gives to a Pipeline of the cluster; the Pipeline may change before a run."""
    from ultramarine.files.reading import dotted
    from ultramarine.files.validation import schedule_faults
    from ultramarine.kube.errors import NotFound

    def pipeline_of(name: str) -> Manifest | None:
        try:
            return client.cluster.get(PIPELINE, name)
        except NotFound:
            return None

    if manifest["kind"] == SCHEDULE.kind:
        for fault in schedule_faults(manifest, pipeline_of):
            yield f"Warning: Schedule {manifest['metadata']['name']}: {dotted(fault.path)}: {fault.message}"


def check_kinds(documents: Iterable[Document]) -> None:
    """Refuse documents without a kind, such as those of Azure ML. Raises InvalidSpec."""
    from ultramarine.azureml import is_azureml

    for document in documents:
        if "kind" in document.manifest:
            continue
        if is_azureml(Path(document.file)):
            raise InvalidSpec(
                f"{document.file} is an Azure ML file. Run `ultramarine submit {document.file}`, or convert it by"
                f" `ultramarine convert azureml {document.file} -o DIR`."
            )
        raise InvalidSpec(f"{document.file} has no kind. Give apiVersion, kind, metadata and spec.")


def next_commands(endpoint: str) -> str:
    """Return a sentence with the commands that show when an endpoint is ready, and ask it then."""
    return (
        f"See when it is ready: `ultramarine describe oe {endpoint}`; then run `ultramarine endpoints test {endpoint}`."
    )


def shares_of(endpoint: Manifest) -> str:
    """Return the traffic of an endpoint's deployments as a text, such as blue 100 %, green 0 %."""
    spec = endpoint["spec"]
    names = [entry["name"] for entry in spec["deployments"]]
    traffic = spec.get("traffic") or {names[0]: 100}
    return ", ".join(f"{name} {traffic.get(name, 0)} %" for name in names)
