"""The command `completion`: commands, options and kinds by the Tab key."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


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
        typer.echo(script)
        return
    typer.echo("`ultramarine --install-completion` installs completion for your shell; start a new shell then.")
    typer.echo("To install it by hand:")
    for line in _HOW.values():
        typer.echo(f"  {line}")
