import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saif_core.errors import EvaluatorError, SteeringError, UnknownNameError
from saif_core.records.evaluation import DEFAULT_CANDIDATES
from saif_core.registry import (
    EVALUATORS,
    REGISTRIES,
    SELECTORS,
    SOURCES,
    STEERING_METHODS,
    Registry,
    load_plugins,
)

METHOD = '''
from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nowhere import Tensor


def shift(
    resid: Tensor,
    *,
    amount: float,
    count: int = 3,
    mode: Literal["near", "far"] = "near",
    keep: bool = True,
    label: str | None = None,
) -> Tensor:
    """Moves things
    a little.

    More words.

    Args:
        resid: not a parameter.
        amount: how far to move,
            in steps: at least one.
        count, keep: two at once.
        mode (str): near or far.

    Returns:
        label: not this text.
    """
    return (resid, amount, count, mode, keep, label)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty plug-in package called ``made_plugins``."""
    folder = tmp_path / "made_plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from saif_core.registry import import_plugins\n\nimport_plugins(__name__, __path__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "made_plugins"]:
        del sys.modules[name]


def registry() -> Registry:  # type: ignore[type-arg]
    return Registry("method", "made_plugins", SteeringError)


def test_parameters_and_their_help_are_read_from_the_function(package: Path) -> None:
    (package / "shift.py").write_text(METHOD)
    (package / "_helper.py").write_text("raise RuntimeError('helpers are not plug-ins')\n")
    made = registry()
    assert made.names() == ["shift"]
    found = made.get("shift")
    assert found.help == "Moves things a little."
    by_name = {parameter.name: parameter for parameter in found.parameters}
    assert list(by_name) == ["amount", "count", "mode", "keep", "label"]
    assert by_name["amount"].required
    assert by_name["amount"].annotation is float
    assert by_name["amount"].help == "how far to move, in steps: at least one."
    assert by_name["mode"].choices == ("near", "far")
    assert by_name["mode"].default == "near"
    assert by_name["mode"].help == "near or far."
    assert by_name["count"].help == by_name["keep"].help == "two at once."
    assert by_name["label"].optional
    assert by_name["label"].help == ""


def test_bind_sets_parameters_and_defaults(package: Path) -> None:
    (package / "shift.py").write_text(METHOD)
    moved = registry().bind("shift", {"amount": 2, "mode": "far"})("resid")
    assert moved == ("resid", 2.0, 3, "far", True, None)
    assert isinstance(moved[1], float)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "needs the parameter 'amount'"),
        ({"amount": "2"}, "'amount' of the method 'shift' has to be a number, but is '2'"),
        ({"amount": True}, "has to be a number, but is True"),
        ({"amount": float("nan")}, "has to be a number"),
        ({"amount": 10**400}, "has to be a number, but is a very large number"),
        ({"amount": 1, "count": 2.0}, "has to be a whole number, but is 2.0"),
        ({"amount": 1, "count": False}, "has to be a whole number, but is False"),
        ({"amount": 1, "mode": "middle"}, "has to be one of near, far, but is 'middle'"),
        ({"amount": 1, "mode": ["near"]}, "has to be one of near, far, but is a list"),
        ({"amount": 1, "keep": 1}, "has to be true or false, but is 1"),
        ({"amount": 1, "keep": None}, "has to be true or false, but is nothing"),
        ({"amount": 1, "label": {}}, "has to be text, or nothing, but is a mapping"),
        ({"amount": 1, "sum": 2}, "has no parameter 'sum'; its parameters are: amount, count"),
    ],
)
def test_parameters_that_do_not_fit_are_one_sentence(
    package: Path, parameters: dict[str, object], words: str
) -> None:
    (package / "shift.py").write_text(METHOD)
    with pytest.raises(SteeringError) as caught:
        registry().bind("shift", parameters)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("def broken(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def other():\n    pass\n", "no function 'broken'"),
        ("from json import dumps as broken\n", "no function 'broken'"),
        ("def broken(x, *, shape: tuple):\n    pass\n", "'shape'"),
        ("def broken(x, *, shape):\n    pass\n", "'shape'"),
    ],
)
def test_a_broken_plugin_stops_the_start_with_its_name(
    package: Path, source: str, words: str
) -> None:
    (package / "broken.py").write_text(source)
    (package / "shift.py").write_text(METHOD)
    with pytest.raises(ImportError, match=r"broken\.py") as caught:
        registry().names()
    assert words in str(caught.value)


@pytest.mark.parametrize("shipped", REGISTRIES)
def test_an_unknown_name_lists_the_known_ones(shipped: Registry) -> None:  # type: ignore[type-arg]
    with pytest.raises(UnknownNameError) as caught:
        shipped.bind("no-such-name", {})
    assert caught.value.known == shipped.names() != []
    assert "no-such-name" in str(caught.value)


@pytest.mark.parametrize("shipped", REGISTRIES)
def test_every_plugin_and_parameter_has_help(shipped: Registry) -> None:  # type: ignore[type-arg]
    load_plugins()
    for registered in shipped:
        assert registered.help.endswith("."), registered.name
        own = registered.write.parameters if registered.write else ()
        for parameter in (*registered.parameters, *own):
            assert parameter.help, f"{registered.name}: {parameter.name}"


def test_shipped_registries_hold_the_default_recipe() -> None:
    assert "sensitivity" in SELECTORS
    assert "addition" in STEERING_METHODS
    assert "language" in EVALUATORS
    assert SELECTORS.check("sensitivity", {})
    assert STEERING_METHODS.check("addition", {}) == {}
    assert {candidate.source for candidate in DEFAULT_CANDIDATES} <= set(SOURCES.names())
    assert SOURCES.check("saif", {})["top"] == 15


def test_each_registry_raises_its_own_error() -> None:
    for shipped, error in ((SELECTORS, SteeringError), (EVALUATORS, EvaluatorError)):
        name = shipped.names()[0]
        with pytest.raises(error):
            shipped.check(name, {"no_such_parameter": 1})


def test_registry_and_evaluators_load_without_torch_or_language_models() -> None:
    code = (
        "import sys; from saif_core.inputs.shipped import shipped_instructions; "
        "shipped_instructions(); print(sorted({'torch', 'numpy', 'lingua'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "registry",
        "judging.evaluators",
        "judging.evaluators.language",
        "finding.selectors",
        "finding.sources",
        "steering.methods",
    ],
)
def test_any_of_the_modules_can_be_imported_first(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import saif_core.{module}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
