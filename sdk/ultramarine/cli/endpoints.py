"""The commands of endpoints: deploy, invoke, test, traffic, keys, logs."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .bars import transfer_bar
from .completing import named, versions
from .session import Format, Output, Session, aligned, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.endpoints import Endpoint

_NAME = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Name of the endpoint.", autocompletion=named("onlineendpoint"))
]
_PINNED = Annotated[str, typer.Option("--deployment", help="Deployment to ask, whatever its traffic is.")]
_KEY = Annotated[
    str, typer.Option("--key", envvar="ULTRAMARINE_KEY", help="Key or token.", show_default="that of the Secret")
]

group = typer.Typer(no_args_is_help=True, help="Endpoints that answer requests with models.")


class Shape(StrEnum):
    """Format of predictions."""

    JSON = "json"
    TABLE = "table"


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(group, name="endpoints")


def _endpoint(session: Session, name: str, key: str = "") -> Endpoint:
    from ultramarine.endpoints import Endpoint

    return Endpoint(session.client, name, key, session.note)


@group.command("list")
def list_endpoints(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List endpoints with their state and their traffic."""
    from .objects import get

    get(context, "onlineendpoints", None, output, "", False)


@group.command()
def deploy(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="MODEL, MODEL@VERSION or MODEL@ALIAS, which is followed.", autocompletion=versions("model")
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the endpoint.", show_default="that of the model")] = "",
    deployment: Annotated[
        str, typer.Option(help="Deployment to change; a new one gets no traffic.", show_default="the only one")
    ] = "",
    scoring: Annotated[Path | None, typer.Option(help="Folder of a score.py, or a script.")] = None,
    env: Annotated[str, typer.Option(help="requirements.txt, or the name of an Environment.")] = "",
    replicas: Annotated[int | None, typer.Option(min=1, help="Number of pods.", show_default="1, or as it is")] = None,
    cpu: Annotated[str, typer.Option(help="CPU request of each pod, such as 500m.")] = "",
    memory: Annotated[str, typer.Option(help="Memory request and limit of each pod, such as 1Gi.")] = "",
    gpu: Annotated[int, typer.Option(help="GPUs of each pod.")] = 0,
    timeout: Annotated[int, typer.Option(help="Seconds to wait until it is ready.")] = 1200,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest; the server checks it.")] = False,
) -> None:
    """Serve a model: create an endpoint, or change one, and wait until it answers.

    ultramarine endpoints deploy churn@champion --replicas 2
    """
    from ultramarine_contract.meta import ONLINE_ENDPOINT

    from ultramarine.kube.errors import NotFound
    from ultramarine.serving import deploying

    from .composing import check_environment, environment_of, show, without_noise

    session = session_of(context)
    client = session.client
    deploying.check_name("--name", name)
    deploying.check_name("--deployment", deployment)
    reference = deploying.reference_of(model)
    format = client.models.wait(client.models.version(reference))["spec"].get("format", {}).get("name", "")
    content = deploying.Content(
        reference,
        _scoring(session, scoring, dry_run) if scoring else None,
        environment_of(env) if env else None,
        replicas or 0,
        _resources(cpu, memory, gpu),
    )
    check_environment(client, content.environment or {})
    name = name or reference.partition("@")[0]
    endpoint = _endpoint(session, name)
    try:
        live: Manifest | None = client.cluster.get(ONLINE_ENDPOINT, name)
    except NotFound:
        live = None
    new = deploying.new_endpoint(name, deployment, content)
    spec = deploying.changed_spec(live, deployment, content) if live else new["spec"]
    deploying.check_scoring(reference, format, spec["deployments"])
    if dry_run:
        if live is None:
            made = client.cluster.create(ONLINE_ENDPOINT, new, dry_run=True)
        else:
            made = client.cluster.patch(ONLINE_ENDPOINT, name, {"spec": spec}, dry_run=True)
        show(without_noise(made))
        return
    if live is None:
        _create(session, new)
    else:
        endpoint.change(lambda manifest: deploying.changed_spec(manifest, deployment, content))
        session.note(f"OnlineEndpoint {name} changed.")
    if detach:
        return
    try:
        endpoint.wait(timeout, session.note)
    except TimeoutError as error:
        from ultramarine.endpoints import NotReady

        raise NotReady(f"{error}. It goes on; `ultramarine describe oe {name}` shows its state.") from None
    _report(session, endpoint, deployment)


def _create(session: Session, manifest: Manifest) -> None:
    """Create an endpoint and the Secret of its keys."""
    from ultramarine_contract.meta import ONLINE_ENDPOINT

    from ultramarine.serving.keys import write_with_keys

    cluster = session.cluster
    write_with_keys(cluster, manifest, lambda endpoint: session.client.create(ONLINE_ENDPOINT, endpoint), session.note)
    session.note(f"OnlineEndpoint {manifest['metadata']['name']} created in namespace {cluster.namespace}.")


def _scoring(session: Session, path: Path, dry_run: bool) -> dict[str, Any]:
    from ultramarine_contract.meta import API_VERSION

    from ultramarine.storage.uploads import upload_local_paths

    manifest = {"apiVersion": API_VERSION, "spec": {"source": {"path": str(path)}}}
    with transfer_bar(session, "Uploading") as progress:
        upload_local_paths(session.client.platform, manifest, dry_run, None, session.note, progress)
    entry = {"entry": path.name} if path.is_file() and path.name != "score.py" else {}
    return {"source": manifest["spec"]["source"], **entry}  # type: ignore[index]


def _resources(cpu: str, memory: str, gpu: int) -> dict[str, Any]:
    requests = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
    limits = {name: value for name, value in (("memory", memory), ("nvidia.com/gpu", gpu)) if value}
    return {name: values for name, values in (("requests", requests), ("limits", limits)) if values}


def _report(session: Session, endpoint: Endpoint, deployment: str) -> None:
    """Print the address of an endpoint, and the command that asks it."""
    typer.echo(f"{endpoint.name} is ready: {endpoint.url}")
    pin = f" --deployment {deployment}" if deployment and not endpoint.traffic.get(deployment) else ""
    session.note(f"Ask it: ultramarine endpoints test {endpoint.name}{pin}")
    session.note(f"Or:     ultramarine endpoints invoke {endpoint.name}{pin} --data @rows.csv")


@group.command()
def invoke(
    context: typer.Context,
    name: _NAME,
    data: Annotated[str, typer.Option(help="JSON of rows, or @FILE: .json, .jsonl, .csv, .tsv, .parquet.")] = "",
    deployment: _PINNED = "",
    model: Annotated[str, typer.Option(help="Model of a pool.")] = "",
    path: Annotated[str, typer.Option(help="Path of a container or script; the data is sent as it is.")] = "",
    key: _KEY = "",
    output: Annotated[Shape, typer.Option("-o", "--output", help="Format of the answer.")] = Shape.JSON,
) -> None:
    """Send rows to an endpoint, and print its answer. The request is made from the model's signature.

    ultramarine endpoints invoke churn --data '[[20, "basic"], [70, "gold"]]'
    """
    from ultramarine.serving.reading import read_data

    session = session_of(context)
    endpoint = _endpoint(session, name, key)
    if path:
        body = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode() or None
        answer = endpoint.request("POST" if body else "GET", f"/{path.lstrip('/')}", body, {}, deployment)
        typer.echo(answer.body.decode(errors="replace"))
        return
    if not data:
        raise typer.BadParameter("give --data: JSON of rows, or @FILE; `ultramarine endpoints test` makes a row")
    rows = read_data(data, endpoint.signature(deployment, model))
    _print(endpoint.answer(rows, deployment, model), output)


def _print(document: Any, output: Shape) -> None:
    """Print outputs as JSON or, if they have a value for each row, as a table."""
    columns = _columns(document) if output == Shape.TABLE else None
    if not columns:
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    names = list(columns)
    rows = [names, *([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))]
    typer.echo("\n".join(aligned(rows)))


def _columns(document: Any) -> dict[str, list[Any]]:
    """Return a column for each output, or several for a matrix; empty if the answer is not a table."""
    columns: dict[str, list[Any]] = {}
    for name, values in document.items() if isinstance(document, dict) else ():
        if not isinstance(values, list):
            return {}
        if values and isinstance(values[0], list):
            columns |= {f"{name}.{index}": [row[index] for row in values] for index in range(len(values[0]))}
        else:
            columns[name] = values
    return columns if len({len(values) for values in columns.values()}) == 1 else {}


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


@group.command("test")
def send_example(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Name of the endpoint; with --local, MODEL's path.")],
    deployment: _PINNED = "",
    model: Annotated[str, typer.Option(help="Model of a pool.")] = "",
    key: _KEY = "",
    local: Annotated[bool, typer.Option("--local", help="Serve the folder or file MODEL on this machine.")] = False,
    data: Annotated[
        str, typer.Option(help="JSON of rows, or @FILE as in `invoke`.", show_default="a row of the signature")
    ] = "",
    scoring: Annotated[Path | None, typer.Option(help="With --local: scoring script.")] = None,
    port: Annotated[int, typer.Option(help="With --local: port on 127.0.0.1.", show_default="a free one")] = 0,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="With --local: load formats that run code, such as pickle.")
    ] = False,
) -> None:
    """Send a row that is made from the model's signature, and print the row, the answer and its time.

    With --local the platform's server answers on this machine, in the same form: the rows of --data or, without any,
    whatever comes until Ctrl-C.
    """
    from ultramarine.serving.reading import read_data
    from ultramarine.serving.route import EndpointError

    session = session_of(context)
    if local:
        from .local import serve_here

        return serve_here(session, Path(name), data, scoring, port, allow_code_execution)
    endpoint = _endpoint(session, name, key)
    signature = endpoint.signature(deployment, model)
    if data:
        rows = read_data(data, signature)
    elif signature is None:
        raise EndpointError(
            f"endpoint {name} has a script or a container without a signature, so no row can be made. Give --data."
        )
    else:
        row = signature.example()
        session.note(f"Row: {json.dumps(row, ensure_ascii=False)}")
        rows = row if isinstance(row, dict) else [row]
    begin = time.monotonic()
    answer = endpoint.answer(rows, deployment, model)
    _print(answer, Shape.JSON)
    session.note(f"Answered in {(time.monotonic() - begin) * 1000:.0f} ms, with the way from this machine.")


@group.command()
def traffic(
    context: typer.Context,
    name: _NAME,
    shares: Annotated[list[str] | None, typer.Argument(help="As in blue=90 green=10.", show_default="print")] = None,
) -> None:
    """Show the percentage of requests by deployment, or change it and wait until it holds."""
    from ultramarine.serving.deploying import parse_traffic

    session = session_of(context)
    endpoint = _endpoint(session, name)
    if shares:
        endpoint.set_traffic(parse_traffic(shares))
        endpoint.wait(300, session.note)
    for deployment, share in endpoint.traffic.items():
        typer.echo(f"{deployment}={share}")


@group.command()
def keys(
    context: typer.Context,
    name: _NAME,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new primary key; the former one becomes secondary.")
    ] = False,
) -> None:
    """Print the keys of an endpoint."""
    session = session_of(context)
    endpoint = _endpoint(session, name)
    for kind, key in (endpoint.rotate_keys() if rotate else endpoint.keys).items():
        typer.echo(f"{kind}: {key}")
    if rotate:
        session.note("The new key opens the endpoint within 90 seconds; the secondary key until the next rotation.")


@group.command()
def logs(
    context: typer.Context,
    name: _NAME,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    deployment: Annotated[str, typer.Option(help="Deployment.", show_default="all")] = "",
) -> None:
    """Print the logs of the pods that answer."""
    session = session_of(context)
    endpoint = _endpoint(session, name)
    pods = len(endpoint.object["spec"]["deployments"]) > 1 and not deployment
    count = 0
    for update in endpoint.logs(deployment, follow):
        typer.echo(f"[{update.pod}] {update.text}" if pods else update.text)
        count += 1
    if not count:
        session.note(f"No pod of endpoint {name} has a log; `ultramarine describe oe {name}` shows its state.")
