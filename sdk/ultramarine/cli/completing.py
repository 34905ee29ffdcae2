"""The Tab key: the command `completion`, and the names that a shell completes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .session import Session

if TYPE_CHECKING:
    from ultramarine.client import Client

Completion = Callable[[typer.Context, str], list[str]]
_SECONDS = 0.8  # that a Tab key waits for the cluster
# bash takes @ for the end of a word, which would cut MODEL@VERSION.
_BASH = 'COMP_WORDBREAKS="${COMP_WORDBREAKS//@/}"\n'


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


_HOW = {
    Shell.BASH: "ultramarine completion bash >> ~/.bashrc",
    Shell.ZSH: "ultramarine completion zsh >> ~/.zshrc",
    Shell.FISH: "ultramarine completion fish > ~/.config/fish/completions/ultramarine.fish",
    Shell.POWERSHELL: "ultramarine completion powershell >> $PROFILE",
}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(completion)


def completion(
    shell: Annotated[Shell | None, typer.Argument(help="Shell.", show_default=False)] = None,
) -> None:
    """Print the script by which a shell completes commands and options; without SHELL, explain how to install it."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell:
        script = get_completion_script(prog_name="ultramarine", complete_var="_ULTRAMARINE_COMPLETE", shell=shell.value)
        typer.echo((_BASH if shell == Shell.BASH else "") + script)
        return
    typer.echo("`ultramarine --install-completion` installs completion for your shell; start a new shell then.")
    typer.echo("To install it by hand:")
    for line in _HOW.values():
        typer.echo(f"  {line}")


def contexts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a context of the kubeconfig."""
    return _quietly(incomplete, lambda: _contexts(ctx))


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a namespace of the cluster if the user may list them, or of the kubeconfig's contexts."""
    there = _asked(ctx, incomplete, lambda client: client.cluster.namespaces())
    return there or _quietly(incomplete, lambda: filter(None, _contexts(ctx).values()))


def kinds(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a kind, or KIND/NAME."""
    kind, slash, _ = incomplete.partition("/")
    if slash:
        return _asked(ctx, incomplete, lambda client: (f"{kind}/{name}" for name in _names(client, kind)))
    return _asked(ctx, incomplete, lambda client: (entry.resource.plural for entry in client.kinds.ours()))


def names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete an object of the kind before it."""
    kind = str(ctx.params.get("kind") or "")
    return _asked(ctx, incomplete, lambda client: _names(client, kind))


def named(kind: str) -> Completion:
    """Return the completion of objects of one kind; a word with a slash is KIND/NAME."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return (
            kinds(ctx, incomplete)
            if "/" in incomplete
            else _asked(ctx, incomplete, lambda client: _names(client, kind))
        )

    return complete


def versions(kind: str) -> Completion:
    """Return the completion of NAME@VERSION and NAME@ALIAS for versions of models or datasets."""

    def references(client: Client) -> Iterable[str]:
        for item in client.cluster.list(client.kinds.named(kind)):
            for alias in item["spec"].get("aliases") or {}:
                yield f"{item['metadata']['name']}@{alias}"
        for item in client.cluster.list(client.kinds.named(f"{kind}version")):
            yield f"{item['spec'][kind]}@{item['spec']['version']}"

    return lambda ctx, incomplete: _asked(ctx, incomplete, references)


def _names(client: Client, kind: str) -> Iterable[str]:
    return [item["metadata"]["name"] for item in client.cluster.list(client.kinds.named(kind))]


def _contexts(context: typer.Context) -> dict[str, str]:
    from ultramarine.kube.config import contexts_of

    return contexts_of(str(context.find_root().params.get("kubeconfig") or ""))


def _asked(context: typer.Context, word: str, ask: Callable[[Client], Iterable[str]]) -> list[str]:
    """Return what a cluster answers in time; what is imported before does not count."""
    import ultramarine.client  # noqa: F401

    options: dict[str, Any] = context.find_root().params
    namespace, cluster, file = (str(options.get(key) or "") for key in ("namespace", "kube_context", "kubeconfig"))
    return _quietly(word, lambda: ask(Session(namespace, cluster, file).client))


def _quietly(word: str, ask: Callable[[], Iterable[str]]) -> list[str]:
    """Return the answers that begin like a word; none after an error, which has no place beside a prompt."""
    answers: list[str] = []

    def run() -> None:
        with suppress(Exception):
            answers.extend(ask())

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return sorted({text for text in list(answers) if text.startswith(word)})
