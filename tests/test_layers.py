"""The layer rule, read from the imports of every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("saif_core", "storage", "app")
STORAGE_MAY_USE = ("saif_core.records", "saif_core.errors", "saif_core.characters")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}


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
    return not is_within(name, ("tests", "torch", "sqlalchemy", "alembic"))


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
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
