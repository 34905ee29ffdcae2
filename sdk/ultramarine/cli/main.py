"""The application: groups of commands, global options, and the one place where errors end."""

from __future__ import annotations

import errno
import os
import re
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from ultramarine_contract.errors import UltramarineError

from .completing import contexts, namespaces
from .session import Session, echo, session_of

_HELP = """Train, register and serve models on Kubernetes.

Start with `ultramarine init`, then `ultramarine submit`. `ultramarine doctor` checks the way to the cluster.
-n, --context, --kubeconfig and --debug may stand anywhere before `--`.
"""

# Modules with commands, in the order of the help; each has a function `register(app)`.
_GROUPS = (
    "submit",
    "automl",
    "objects",
    "planning",
    "runs",
    "pipelines",
    "data",
    "models",
    "endpoints",
    "schedules",
    "lineage",
    "convert",
    "validate",
    "completing",
    "doctor",
)


class _Root(TyperGroup):
    """The command, whose errors name what is near while the session is open."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UltramarineError as error:
            from ultramarine.absence import explained
            from ultramarine.kube.errors import NotFound

            if not isinstance(error, NotFound) or session_of(ctx).debug:
                raise
            raise explained(session_of(ctx).client, error) from None


app = typer.Typer(
    cls=_Root,
    name="ultramarine",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ultramarine {version('ultramarine')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    namespace: Annotated[
        str,
        typer.Option(
            "-n",
            "--namespace",
            envvar="ULTRAMARINE_NAMESPACE",
            help="Namespace.",
            autocompletion=namespaces,
            show_default="that of the context",
        ),
    ] = "",
    kube_context: Annotated[
        str,
        typer.Option(
            "--context", help="Context of the kubeconfig.", show_default="the current one", autocompletion=contexts
        ),
    ] = "",
    kubeconfig: Annotated[
        str, typer.Option("--kubeconfig", help="Kubeconfig file.", show_default="KUBECONFIG, or ~/.kube/config")
    ] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    session = Session(namespace, kube_context, kubeconfig, debug)
    context.obj = session
    context.call_on_close(session.close)


for group in _GROUPS:
    import_module(f"{__package__}.{group}").register(app)

_GLOBAL = {"-n": True, "--namespace": True, "--context": True, "--kubeconfig": True, "--debug": False}


def global_first(argv: list[str]) -> list[str]:
    """Move the global options to the front, so that they may stand behind the command as kubectl allows."""
    front, rest = [], []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif name in _GLOBAL and (equals or not _GLOBAL[name]):
            front.append(word)
        elif name in _GLOBAL:
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return [*front, *rest]


_INTERRUPTED = 130
_FREE = "Free some there, or set TMPDIR to a folder of another disk if that of temporary files is full."
_OTHER = "Choose a place that you may write."
_REMEDIES = {errno.ENOSPC: _FREE, errno.EDQUOT: _FREE, errno.EACCES: _OTHER, errno.EROFS: _OTHER}


def main() -> None:
    """Run the command of this process's arguments; exit with 1, or 2 for wrong arguments, and one sentence."""
    argv = global_first(sys.argv[1:])
    debug = "--debug" in argv[: argv.index("--") if "--" in argv else None]
    try:
        code = app(args=argv, prog_name="ultramarine", standalone_mode=False)
    except UltramarineError as error:
        if debug:
            raise
        echo(f"Error: {_sentence(error.message)}", err=True, state="Error")
        sys.exit(1)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except typer.Abort:  # a question was answered by no
        typer.echo("Nothing was done.", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of the pipe has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        remedy = f" {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
        typer.echo(f"Error: {place}{error.strerror or error}.{remedy}", err=True)
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors, whose classes are its own
            raise
        _explain_usage(error)
    if code == _INTERRUPTED:  # typer's code for Ctrl-C
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # sys.exit waits for the threads of a transfer
    sys.exit(code if isinstance(code, int) else 0)


def _explain_usage(error: Any) -> NoReturn:
    """Say in one line what is wrong with the arguments, and exit with 2."""
    context = getattr(error, "ctx", None)
    text = " ".join(str(error.format_message()).split()).removeprefix("Invalid value: ").replace("Value error, ", "")
    if not text:  # a group without a command, which has printed its help
        sys.exit(2)
    text = re.sub(r" \(Possible options: (.*)\)$", r". Did you mean \1?", text)
    command = context.command_path if context is not None else "ultramarine"
    sentence = _sentence(text[:1].upper() + text[1:])
    echo(f"Error: {sentence} `{command} --help` lists what it takes.", err=True, state="Error")
    sys.exit(2)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "`")) else f"{text}."
