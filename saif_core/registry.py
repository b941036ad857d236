"""Methods by name: what can be chosen, with which parameters, read from the plug-in files.

A plug-in is one file in ``finding/selectors``, ``steering/methods`` or ``judging/evaluators``. It
holds a function with the file's name; the function's keyword-only arguments are its parameters,
and their help is in its docstring. Files whose name starts with an underscore are helpers.

A plug-in package is imported when its registry is first asked for something, so importing this
module costs nothing; ``load_plugins`` imports all of them at the start.
"""

import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from saif_core.errors import EvaluatorError, SaifError, SteeringError, UnknownNameError
from saif_core.records.texts import Judgement

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor

    Selector = Callable[..., Float[np.ndarray, " d_sae"]]
    SteeringMethod = Callable[..., Float[Tensor, "batch pos d_model"]]

Evaluator = Callable[..., Judgement]
F = TypeVar("F", bound=Callable[..., Any])

_SCALARS = (bool, int, float, str)
_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_ARGUMENT = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\w+)*)(?:\s*\([^)]*\))?\s*:\s*(.*)")


@dataclass(frozen=True)
class Parameter:
    """One keyword-only argument of a plug-in.

    Attributes:
        annotation: bool, int, float, str, a Literal of texts, or one of these or None.
        default: ``inspect.Parameter.empty`` where the plug-in has none.
        help: from the docstring's Args section.
    """

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        """Whether the caller has to give a value."""
        return self.default is inspect.Parameter.empty

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a Literal annotation, else nothing."""
        kind = self._kind
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def optional(self) -> bool:
        """Whether None is a value."""
        return type(None) in typing.get_args(self.annotation)

    @property
    def _kind(self) -> Any:
        if typing.get_origin(self.annotation) not in (typing.Union, types.UnionType):
            return self.annotation
        kinds = [kind for kind in typing.get_args(self.annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else self.annotation

    @property
    def is_drawable(self) -> bool:
        """Whether a form can ask for the value."""
        if self.choices:
            return all(isinstance(choice, str) for choice in self.choices)
        return self._kind in _SCALARS

    @property
    def expects(self) -> str:
        """What a value has to be, in words."""
        if self.choices:
            words = "one of " + ", ".join(map(str, self.choices))
        else:
            words = _TYPE_WORDS[self._kind]
        return f"{words}, or nothing" if self.optional else words

    def accept(self, value: Any) -> Any:
        """The value in the parameter's type; a whole number is taken for a number.

        Raises:
            ValueError: the value does not fit.
        """
        if value is None and self.optional:
            return None
        if self.choices:
            fits = isinstance(value, str) and value in self.choices
        elif self._kind is float:
            fits = _is_finite_number(value)
            value = float(value) if fits else value
        elif self._kind is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, self._kind)
        if not fits:
            raise ValueError(f"has to be {self.expects}, but is {describe_value(value)}")
        return value


@dataclass(frozen=True)
class Registered(Generic[F]):
    """One plug-in; ``help`` is the first paragraph of its docstring."""

    name: str
    function: F
    parameters: tuple[Parameter, ...]
    help: str


class Registry(Generic[F]):
    """The plug-ins of one package by name, in alphabetical order.

    Args:
        kind: what one of them is called in messages.
        package: the package whose files are the plug-ins.
        error: raised for parameters that do not fit.
    """

    def __init__(self, kind: str, package: str, error: type[SaifError]) -> None:
        self.kind = kind
        self.package = package
        self._error = error

    @cached_property
    def _registered(self) -> dict[str, Registered[F]]:
        package = importlib.import_module(self.package)
        found: dict[str, Registered[F]] = {}
        for name in plugin_names(package.__path__):
            module = importlib.import_module(f"{self.package}.{name}")
            found[name] = _register(self.kind, module)
        return found

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._registered)

    def __iter__(self) -> Iterator[Registered[F]]:
        """All plug-ins, sorted by name."""
        return iter(self._registered[name] for name in self.names())

    def __len__(self) -> int:
        """How many plug-ins there are."""
        return len(self._registered)

    def __contains__(self, name: object) -> bool:
        """Whether something is registered under the name."""
        return name in self._registered

    def get(self, name: str) -> Registered[F]:
        """The plug-in with this name.

        Raises:
            UnknownNameError: nothing is registered under the name.
        """
        found = self._registered.get(name)
        if found is None:
            raise UnknownNameError(self.kind, name, self.names())
        return found

    def check(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of a plug-in: the given ones, checked, and the defaults of the others.

        Raises:
            UnknownNameError: nothing is registered under the name.
            SaifError: a parameter is unknown, missing or does not fit; of the registry's class.
        """
        found = self.get(name)
        known = {parameter.name for parameter in found.parameters}
        for given in parameters:
            if given not in known:
                raise self._error(
                    f"The {self.kind} {name!r} has no parameter {describe_value(given)}; its "
                    f"parameters are: {', '.join(sorted(known)) or 'none'}."
                )
        return {item.name: self._value(name, item, parameters) for item in found.parameters}

    def _value(self, name: str, item: Parameter, parameters: Mapping[str, Any]) -> Any:
        if item.name not in parameters:
            if item.required:
                raise self._error(
                    f"The {self.kind} {name!r} needs the parameter {item.name!r}, which was not "
                    f"given; it is {item.expects}."
                )
            return item.default
        try:
            return item.accept(parameters[item.name])
        except ValueError as error:
            raise self._error(
                f"The parameter {item.name!r} of the {self.kind} {name!r} {error}."
            ) from error

    def bind(self, name: str, parameters: Mapping[str, Any]) -> F:
        """The plug-in's function with its parameters set.

        Raises:
            UnknownNameError: nothing is registered under the name.
            SaifError: the parameters do not fit; of the registry's class.
        """
        checked = self.check(name, parameters)
        return typing.cast(F, partial(self.get(name).function, **checked))


def import_plugins(package: str, path: Iterable[str]) -> None:
    """Import every plug-in file of a package; for the package's own ``__init__``.

    Raises:
        ImportError: a plug-in cannot be imported; the message names its file.
    """
    for name in plugin_names(path):
        try:
            importlib.import_module(f"{package}.{name}")
        except Exception as error:
            raise ImportError(
                f"The plug-in {name}.py in {package} cannot be loaded: "
                f"{type(error).__name__}: {error}",
                name=f"{package}.{name}",
            ) from error


def plugin_names(path: Iterable[str]) -> list[str]:
    """Names of the plug-in files in a package's folders, sorted."""
    found = (module.name for module in pkgutil.iter_modules(list(path)))
    return sorted(name for name in found if not name.startswith("_"))


def load_plugins() -> None:
    """Import every plug-in, so that a broken one stops the start.

    Raises:
        ImportError: a plug-in is broken; the message names its file.
    """
    for registry in (SELECTORS, STEERING_METHODS, EVALUATORS):
        registry.names()


def describe_value(value: Any) -> str:
    """A user's value for a message: short scalars as they are, anything else by its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    if isinstance(value, int) and abs(value) >= 10**15:
        return "a very large number"
    if isinstance(value, bool | int | float):
        return repr(value)
    names: dict[type[Any], str] = {dict: "a mapping", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _register(kind: str, module: types.ModuleType) -> Registered[Any]:
    name = module.__name__.rpartition(".")[2]
    function = vars(module).get(name)
    if not inspect.isfunction(function) or function.__module__ != module.__name__:
        raise ImportError(
            f"The plug-in {name}.py in {module.__package__} has no function {name!r}; a {kind} "
            "is a function with the name of its file.",
            name=module.__name__,
        )
    summary, arguments = _read_docstring(inspect.getdoc(function) or "")
    parameters = _read_parameters(function, arguments)
    for parameter in parameters:
        if not parameter.is_drawable:
            raise ImportError(
                f"The parameter {parameter.name!r} of the plug-in {name}.py in "
                f"{module.__package__} has the type {parameter.annotation!r}; it has to be bool, "
                "int, float, str or a Literal of texts.",
                name=module.__name__,
            )
    return Registered(name, function, parameters, summary)


def _read_parameters(
    function: types.FunctionType, arguments: Mapping[str, str]
) -> tuple[Parameter, ...]:
    found = [
        item
        for item in inspect.signature(function).parameters.values()
        if item.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    # Only these annotations are resolved: those of tensors may exist for the type checker alone.
    wanted = types.SimpleNamespace(__annotations__={p.name: p.annotation for p in found})
    hints = typing.get_type_hints(wanted, globalns=function.__globals__)
    return tuple(
        Parameter(p.name, hints[p.name], p.default, arguments.get(p.name, "")) for p in found
    )


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph of a Google docstring, and the texts of its Args section by name."""
    summary = " ".join(text.partition("\n\n")[0].split())
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    lines = section.group(1).splitlines() if section else []
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    entries: list[tuple[list[str], list[str]]] = []
    for line in filter(str.strip, lines):
        starts = len(line) - len(line.lstrip()) == indent
        match = _ARGUMENT.fullmatch(line.strip()) if starts else None
        if match:
            names = [name.strip(" *") for name in match.group(1).split(",")]
            entries.append((names, [match.group(2)]))
        elif entries:
            entries[-1][1].append(line.strip())
    return summary, {name: " ".join(words) for names, words in entries for name in names}


SELECTORS: "Registry[Selector]" = Registry("selector", "saif_core.finding.selectors", SteeringError)
STEERING_METHODS: "Registry[SteeringMethod]" = Registry(
    "steering method", "saif_core.steering.methods", SteeringError
)
EVALUATORS: Registry[Evaluator] = Registry(
    "evaluator", "saif_core.judging.evaluators", EvaluatorError
)
