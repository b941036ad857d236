"""Writes the parts of the documents that follow from the code; a test says when they are stale.

A part stands between ``<!-- made: NAME -->`` and ``<!-- end -->``. Run it as ``make docs``.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from app.cli.reference import command_help
from app.presentation.glossary import GLOSSARY
from app.settings import SETTINGS
from saif_core.registry import REGISTRIES, Registry

ROOT = Path(__file__).parent.parent
PACKAGES = ("saif_core", "storage", "app")
DOCUMENTS = (
    "README.md",
    "docs/architecture.md",
    "docs/extending.md",
    "docs/commands.md",
    "docs/glossary.md",
)
_PART = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def summary(path: Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def folders() -> Iterator[Path]:
    """Every folder with code, in the order of a listing, without migrations and plug-ins' files."""
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            if "migrations" not in init.parts or init.parent.name == "migrations":
                yield init.parent


def tree() -> str:
    """The folders, a line each."""
    lines = []
    for folder in folders():
        place = folder.relative_to(ROOT)
        name = "  " * (len(place.parts) - 1) + place.name + "/"
        lines.append(f"{name:<24}{summary(folder / '__init__.py')}")
    return "```\n" + "\n".join(lines) + "\n```"


def rooms() -> str:
    """Every file by its folder, with what it is for."""
    rows = ["| file | what it is for |", "|---|---|"]
    for folder in folders():
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                told = summary(path).replace("|", "\\|")
                rows.append(f"| `{path.relative_to(ROOT)}` | {told} |")
    return "\n".join(rows)


def plugins() -> str:
    """Every plug-in with its parameters."""
    parts = []
    for registry in REGISTRIES:
        folder = registry.package.replace(".", "/")
        parts += [
            f"**{registry.kind.capitalize()}s** (`{folder}/`)",
            "",
            *_plugin_rows(registry),
            "",
        ]
    return "\n".join(parts).rstrip()


def _plugin_rows(registry: Registry[object]) -> Iterator[str]:
    yield "| name | what it does | parameters |"
    yield "|---|---|---|"
    for one in registry:
        given = ", ".join(
            f"`{p.name}`" + ("" if p.required else f" = {p.default!r}") for p in one.parameters
        )
        yield f"| `{one.name}` | {one.help} | {given} |".replace("  |", " |")


def settings() -> str:
    """Every environment variable with its default."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    rows += [f"| `{one.variable}` | {one.default_words} | {one.help} |" for one in SETTINGS]
    return "\n".join(rows)


def commands() -> str:
    """What ``--help`` prints, command by command."""
    return "\n\n".join(
        f"## {title}\n\n```\n{text.strip()}\n```" for title, text in command_help().items()
    )


def glossary() -> str:
    """The words as the dashboard explains them."""
    return GLOSSARY.read_text(encoding="utf-8").rstrip()


PARTS: dict[str, Callable[[], str]] = {
    "tree": tree,
    "rooms": rooms,
    "plugins": plugins,
    "settings": settings,
    "commands": commands,
    "glossary": glossary,
}


def filled(text: str) -> str:
    """A document with every part made anew."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)


def main() -> int:
    """Write the documents; with ``--check``, only say which are out of date."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        made = filled(text)
        if made != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(made, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"Out of date: {', '.join(stale)}; run `make docs`.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
