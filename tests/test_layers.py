"""The layer rule, read from the imports of every file."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("saif_core", "storage", "app")
STORAGE_MAY_USE = ("saif_core.records", "saif_core.errors", "saif_core.characters")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}


# Parts of saif_core from the ground up: each may import those of lower lines only.
FLOORS = (
    ("characters", "errors"),
    ("records",),
    ("parameters", "versions"),
    ("registry",),
    ("models",),
    ("inputs",),
    ("saes",),
    ("catalog", "steering", "judging"),
    ("writing",),
    ("reading",),
    ("explaining",),
    ("finding",),
    ("pipeline", "evaluating"),
    ("engine",),
)
# What lies below or beside the steps, and is not in the chain that docs/architecture.md shows.
UNSHOWN = ("characters", "parameters", "registry", "versions", "catalog", "pipeline")
# Model, SAE and tensors belong to the engine: whatever shows them has records.
OF_THE_ENGINE = ("torch", "saif_core.models.loaded_model", "saif_core.saes.loaded_sae")


def imported_names(source: str) -> set[str]:
    """Dotted names that a source imports; ``from a import b`` counts as ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reads_environment(source: str) -> bool:
    """Whether a source touches the environment variables of the process."""
    attributes = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    imported = {
        name.removeprefix("os.") for name in imported_names(source) if name.startswith("os.")
    }
    return bool((attributes | imported) & ENVIRONMENT)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def is_allowed(package: str, name: str) -> bool:
    """Whether a file of ``package`` may import ``name``."""
    if package == "saif_core":
        return not is_within(name, ("storage", "app", "tests", "streamlit", "sqlalchemy"))
    if package == "storage":
        ours = is_within(name, ("saif_core", "app", "tests"))
        return is_within(name, STORAGE_MAY_USE) if ours else not is_within(name, ("torch",))
    if package in ("app/cli", "app/presentation") and is_within(name, ("streamlit",)):
        # Starting the dashboard's server is a command.
        return package == "app/cli" and is_within(name, ("streamlit.web",))
    if package == "app/presentation" and is_within(name, ("altair",)):
        return False
    return not is_within(name, ("tests", "sqlalchemy", "alembic", *OF_THE_ENGINE))


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", [*PACKAGES, "app/cli", "app/presentation"])
def test_imports_follow_the_layer_rule(package: str) -> None:
    files = files_of(package)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in sorted(imported_names(path.read_text(encoding="utf-8")))
        if not is_allowed(package, name)
    ]
    assert files
    assert wrong == []


def is_for_types(node: ast.AST) -> bool:
    """Whether it is a block that only type checkers read."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def run_time_names(source: str) -> set[str]:
    """Dotted names that running a source imports, anywhere in it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                ast.Pass() if is_for_types(one) else one for one in body
            ]
    return imported_names(ast.unparse(tree))


def floor_of(part: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


def broken_floors(part: str, source: str) -> list[str]:
    """What a file of a part of saif_core imports from its own floor's other parts, or above."""
    named = {n.split(".")[1] for n in run_time_names(source) if n.startswith("saif_core.")}
    return sorted(other for other in named - {part} if floor_of(other) >= floor_of(part))


def test_every_part_of_the_core_has_its_floor() -> None:
    folder = ROOT / "saif_core"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(part for floor in FLOORS for part in floor) == sorted(files | packages)


def test_the_core_imports_downwards_only() -> None:
    wrong = []
    for path in files_of("saif_core"):
        part = path.relative_to(ROOT / "saif_core").parts[0].removesuffix(".py")
        if part != "__init__":
            source = path.read_text(encoding="utf-8")
            wrong += [f"{path.name} imports {name}" for name in broken_floors(part, source)]
    assert wrong == []


def test_the_architecture_shows_the_floors_as_they_are() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = re.search(r"Inside it: (.+?)\.\n", text, re.DOTALL)
    assert told is not None
    shown = [set(re.split(r",\s+", floor)) for floor in re.split(r"\s+←\s+", told[1])]
    own = [{part for part in floor if part not in UNSHOWN} for floor in FLOORS]
    lowest, *above = [floor for floor in own if floor]
    assert shown == [lowest | above[0], *above[1:]]


@pytest.mark.parametrize(
    ("part", "source", "wrong"),
    [
        ("records", "from saif_core.models import loading", ["models"]),
        ("steering", "def f():\n    import saif_core.judging.words", ["judging"]),
        ("saes", "if TYPE_CHECKING:\n    from saif_core.catalog import Catalog", []),
        ("finding", "from saif_core.finding.study import Study", []),
        ("engine", "from saif_core.catalog import Catalog", []),
    ],
)
def test_an_import_from_above_is_seen(part: str, source: str, wrong: list[str]) -> None:
    assert broken_floors(part, source) == wrong


def test_only_settings_reads_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in files_of(package)
        if reads_environment(path.read_text(encoding="utf-8"))
    ]
    assert readers == ["app/settings.py"]


@pytest.mark.parametrize("package", ["storage", "saif_core"])
def test_importing_a_package_does_not_load_torch_or_streamlit(package: str) -> None:
    code = f"import sys, {package}; print(sorted({{'torch', 'streamlit'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("saif_core", "import storage"),
        ("saif_core", "def f():\n    import streamlit as st"),
        ("storage", "from saif_core import engine"),
        ("storage", "from saif_core.records_extra import x"),
        ("storage", "import torch.nn"),
        ("app", "from sqlalchemy import select"),
        ("app", "def f():\n    import torch"),
        ("app", "from saif_core.models.loaded_model import LoadedModel"),
        ("app/cli", "import streamlit as st"),
        ("app/presentation", "import altair"),
    ],
)
def test_a_broken_rule_is_seen(package: str, source: str) -> None:
    assert not all(is_allowed(package, name) for name in imported_names(source))


@pytest.mark.parametrize(
    "source",
    ["import os\nos.environ.get('X')", "import os\nos.getenv('X')", "from os import environ"],
)
def test_a_reader_of_the_environment_is_seen(source: str) -> None:
    assert reads_environment(source)
