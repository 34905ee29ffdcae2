"""The commands of a run: submit, logs, cancel, suspend, resume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .completing import named
from .session import Session, echo, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.runs import Run
    from ultramarine.runs.parts import Part

_RUN = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Name, or KIND/NAME such as sw/churn. Kind: trainingjob.",
        autocompletion=named("trainingjob"),
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(context_settings={"allow_interspersed_args": True})(submit)
    app.command()(logs)
    app.command()(cancel)
    app.command()(suspend)
    app.command()(resume)


def submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Manifest (.yaml), Azure ML job, or script (.py, .R, .sh).")] = Path(
        "ultramarine.yaml"
    ),
    arguments: Annotated[list[str] | None, typer.Argument(help="After `--`: arguments of the script.")] = None,
    name: Annotated[str, typer.Option(help="Name of the run.", show_default="of the file, with a suffix")] = "",
    data: Annotated[list[str] | None, typer.Option(help="Input NAME=PATH or NAME=s3://...; repeatable.")] = None,
    register: Annotated[str, typer.Option(help="Model that gets the output `model` as its next version.")] = "",
    env: Annotated[str, typer.Option(help="requirements.txt, or the name of an Environment.")] = "",
    image: Annotated[str, typer.Option(help="Container image.")] = "",
    cpu: Annotated[str, typer.Option(help="CPU request, such as 2 or 500m.")] = "",
    memory: Annotated[str, typer.Option(help="Memory request and limit, such as 4Gi.")] = "",
    gpu: Annotated[int, typer.Option(help="Number of GPUs.")] = 0,
    set: Annotated[list[str] | None, typer.Option("--set", help="spec.a.b=VALUE; repeatable.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the run is created.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Run on this machine, without a cluster.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest; the server checks it.")] = False,
) -> None:
    """Create a run, and follow it to its end.

    The folder of the script, or source.path of the manifest, is uploaded. Ctrl-C detaches: the run goes on.

    ultramarine submit train.py --data churn=churn.csv --register churn -- --lr 0.1
    """
    from ultramarine.storage.uploads import upload_local_paths

    from . import composing
    from .applying import apply_file
    from .bars import transfer_bar
    from .local import BUCKET, run_here

    session = session_of(context)
    composing.check_arguments(file, arguments or [])
    options = composing.Options(name, data or [], register, env, image, cpu, memory, gpu, set or [], arguments or [])
    if local and (detach or dry_run):
        raise typer.BadParameter("--local runs the command here; leave out --detach and --dry-run")
    if local:
        manifests = composing.manifests_of(file, options, session.note, lambda: BUCKET)
        run_here(session, manifests, file.parent)
    if dry_run and session.is_offline:
        composing.show_offline(composing.manifests_of(file, options, session.note, lambda: BUCKET), file.parent)
        session.note("No cluster is configured: no server has checked this, and local paths stay as they are.")
        return
    client = session.client
    manifests = composing.manifests_of(file, options, session.note, lambda: client.platform.prefix)
    if env:
        composing.check_environment(client, composing.environment_of(env), manifests)
    composing.check(manifests, file.parent)
    run: Run | None = None
    for manifest in manifests:
        if composing.is_run(manifest["kind"]) and not dry_run:
            client.cluster.check_free(client.kinds.of(manifest), manifest)
        with transfer_bar(session, "Uploading") as progress:
            manifest = upload_local_paths(client.platform, manifest, dry_run, file.parent, session.note, progress)
        resource = client.kinds.of(manifest)
        if not composing.is_run(resource.kind):
            made = apply_file(client, manifest, file, session.note, dry_run=dry_run)
            if dry_run:
                composing.show(composing.without_noise(made))
            continue
        if dry_run:
            made = client.cluster.create(resource, manifest, dry_run=True)
            composing.show(composing.without_noise(made))
            continue
        made = client.create(resource, manifest)
        run = client.run(str(made["metadata"]["name"]), resource.plural)
        session.note(f"{resource.kind} {run.name} created in namespace {client.namespace}.")
    if run and not detach and run.resource.kind == "PipelineRun":
        from .pipelines import follow_steps

        follow_steps(session, run.name)
    elif run and not detach:
        follow(session, run)


def follow(session: Session, run: Run, part: Part | None = None) -> None:
    """Print a run's states, log lines and metrics until it ends; exit with 1 unless it succeeds."""
    from ultramarine.display.causes import diagnosis
    from ultramarine.runs import BUILT

    last = ""
    pods: set[str] = set()
    try:
        for update in run.stream(part):
            if update.type == "log":
                pods.add(update.pod)
                prefix = f"[{update.pod}] " if len(pods) > 1 else ""
                echo(f"{prefix}{update.text}")
            elif update.type == "metrics":
                session.note(update.text)
                continue
            elif (line := update.text.removeprefix(f"{run.resource.kind} {run.name}: ")) != last:
                last = line
                session.note(line, update.state)
            state = update.state
    except KeyboardInterrupt:
        session.note(f"\nDetached; the run goes on. Follow it again: ultramarine logs -f {run.reference}")
        sys.exit(130)
    ended = run.object
    for line in results(ended):
        session.note(line)
    for name in filter(None, run.model_version.split(", ")):
        _ask_for_trust(session, name)
    if state not in ("Succeeded", BUILT):
        if remedy := diagnosis(ended).remedy:
            session.note(f"What to do: {remedy}")
        raise typer.Exit(1)


def _ask_for_trust(session: Session, name: str) -> None:
    """Note that a new version needs its author's consent before an endpoint serves it, and how to give it."""
    version = session.client.get("modelversion", name)
    if session.client.models.lacks_trust(version):
        spec = version["spec"]
        session.note(
            f"{name} has the format {spec['format']['name']}, which runs code when it is loaded. Endpoints serve it"
            f" after `ultramarine models trust {spec['model']}@{spec['version']}`. Save .skops or .onnx to avoid that."
        )


def results(object: Manifest) -> list[str]:
    """Return lines about what a run gave: time, metrics, registered models."""
    status: dict[str, Any] = object.get("status") or {}
    lines = []
    if status.get("duration"):
        lines.append(f"Duration: {status['duration']}")
    if status.get("score"):
        lines.append(f"Metrics: {status['score']}")
    if status.get("modelVersion"):
        lines.append(f"Registered: {status['modelVersion']}")
    return lines


def run_of(session: Session, name: str) -> Run:
    """Return the run of a command's argument: NAME, or KIND/NAME."""
    kind, slash, rest = name.partition("/")
    return session.client.run(rest, kind) if slash else session.client.run(name)


def logs(
    context: typer.Context,
    run: _RUN,
    go_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    node: Annotated[int | None, typer.Option(help="Pods of this node of a TrainingJob only.")] = None,
    trial: Annotated[int | None, typer.Option(help="This trial of a Sweep only.")] = None,
) -> None:
    """Print the log of a run; from the storage if its pods are gone."""
    from ultramarine.runs import BUILT, ENDED
    from ultramarine.runs.parts import node_part, trial_part

    session = session_of(context)
    part: Part | None = None
    if trial is None:
        chosen = run_of(session, run)
    else:
        chosen, part = trial_part(run_of(session, run if "/" in run else f"sweep/{run}"), trial)
    if node is not None:
        part = node_part(chosen, node)
    if go_on and chosen.state not in (*ENDED, BUILT):
        follow(session, chosen, part)
        return
    count = 0
    last = ""
    for update in chosen.logs(part):
        if last and update.pod != last:
            session.note(f"Pod {update.pod}:")  # another attempt, or another node
        last = update.pod
        typer.echo(update.text)
        count += 1
    if not count:
        session.note(without_log(chosen.resource.kind, chosen.name, chosen.state))


def without_log(kind: str, name: str, state: str) -> str:
    """Return the sentence on a run that has written nothing."""
    fetching = ": its pod fetches code, inputs and environment before the command starts" if state == "Running" else ""
    return f"{kind} {name} has no log yet; it is {state}{fetching}."


def _unended(session: Session, name: str) -> Run:
    """Return a run that has not ended. Raises HasEnded."""
    from ultramarine.runs import ENDED, HasEnded

    run = run_of(session, name)
    if (state := run.state) in ENDED and state != "Invalid":  # a corrected spec may run
        raise HasEnded(f"{run.resource.kind} {run.name} has ended: {state}. Submit it again for another run.")
    return run


def cancel(context: typer.Context, run: _RUN) -> None:
    """End a run for good. Its object and what it has stored stay; `suspend` holds a run instead."""
    session = session_of(context)
    chosen = _unended(session, run)
    chosen.cancel()
    session.note(f"{chosen.name} is cancelled. What it has stored stays.")


def suspend(context: typer.Context, run: _RUN) -> None:
    """End a run's pods and hold it; `resume` continues it."""
    session = session_of(context)
    chosen = _unended(session, run)
    chosen.suspend()
    session.note(f"{chosen.name} is suspended. Continue it with `ultramarine resume {run}`.")


def resume(context: typer.Context, run: _RUN) -> None:
    """Continue a suspended run from its newest checkpoint."""
    session = session_of(context)
    chosen = _unended(session, run)
    chosen.resume()
    session.note(f"{chosen.name} continues.")
