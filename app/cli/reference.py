"""What ``--help`` says of every command, for the documents."""

from typing import Any

import typer

WIDTH = 100


def command_help() -> dict[str, str]:
    """The help of ``saif`` and of each of its commands, by how it is called."""
    from app.cli.main import app

    command: Any = typer.main.get_command(app)
    return {name: text for name, text in _help(command, "saif", None)}


def _help(command: Any, name: str, parent: Any) -> list[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=WIDTH
    )
    found = [(name, _plain(command.get_help(context)))]
    for sub in getattr(command, "commands", {}).values():
        found += _help(sub, f"{name} {sub.name}", context)
    return found


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())
