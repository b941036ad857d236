"""Parameters as code declares them in signatures and records: type, bounds, default and help."""

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import BaseMetadata, Ge, Gt, Interval, Le, Lt

_SCALARS = (bool, int, float, str)


_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


_ARGUMENT = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\w+)*)(?:\s*\([^)]*\))?\s*:\s*(.*)")


@dataclass(frozen=True)
class Parameter:
    """One keyword-only argument of a plug-in.

    Attributes:
        annotation: bool, int, float, str, a Literal of texts, or one of these or None; annotated
            with ``annotated_types.Interval`` and the like, a number is kept within bounds.
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
        kind = self.kind
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def optional(self) -> bool:
        """Whether None is a value."""
        return type(None) in typing.get_args(_unannotated(self.annotation))

    @property
    def bounds(self) -> Interval:
        """The least and the largest value, as far as there are any."""
        return _bounds(self.annotation)

    @property
    def least(self) -> Any:
        """The least value, None without one; a number above it counts for "above" too."""
        return self.bounds.ge if self.bounds.ge is not None else self.bounds.gt

    @property
    def most(self) -> Any:
        """The largest value, None without one."""
        return self.bounds.le if self.bounds.le is not None else self.bounds.lt

    @property
    def kind(self) -> Any:
        """The type of a value that is not None: bool, int, float, str or a Literal."""
        return _plain_kind(self.annotation)

    @property
    def is_drawable(self) -> bool:
        """Whether a form can ask for the value."""
        if self.choices:
            return all(isinstance(choice, str) for choice in self.choices)
        return self.kind in _SCALARS

    @property
    def expects(self) -> str:
        """What a value has to be, in words."""
        if self.choices:
            words = "one of " + ", ".join(map(str, self.choices))
        else:
            words = _TYPE_WORDS[self.kind] + _range_words(self.bounds)
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
        elif self.kind is float:
            fits = _is_finite_number(value)
            value = float(value) if fits else value
        elif self.kind is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, self.kind)
        if fits and self.kind in (int, float):
            fits = _is_within(value, self.bounds)
        if not fits:
            raise ValueError(f"has to be {self.expects}, but is {describe_value(value)}")
        return value


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


def _unannotated(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if _is_annotated(annotation) else annotation


def _is_annotated(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Annotated


def _plain_kind(annotation: Any) -> Any:
    annotation = _unannotated(annotation)
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return _unannotated(kinds[0]) if len(kinds) == 1 else annotation


def _bounds(annotation: Any) -> Interval:
    if not _is_annotated(annotation):
        kinds = [kind for kind in typing.get_args(annotation) if _is_annotated(kind)]
        return _bounds(kinds[0]) if kinds else Interval()
    found: dict[str, Any] = {}
    for constraint in typing.get_args(annotation)[1:]:
        parts: Iterable[BaseMetadata] = (
            constraint if isinstance(constraint, Interval) else [constraint]
        )
        for part in parts:
            for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
                if isinstance(part, kind):
                    found[name] = getattr(part, name)
    return Interval(**found)


def _is_within(value: Any, bounds: Interval) -> bool:
    return (
        (bounds.ge is None or value >= bounds.ge)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.le is None or value <= bounds.le)
        and (bounds.lt is None or value < bounds.lt)
    )


def _range_words(bounds: Interval) -> str:
    low = f" from {bounds.ge:g}" if bounds.ge is not None else ""
    low = f" above {bounds.gt:g}" if bounds.gt is not None else low
    high = f" to {bounds.le:g}" if bounds.le is not None else ""
    return low + (f" below {bounds.lt:g}" if bounds.lt is not None else high)


def read_parameters(
    function: Callable[..., Any], arguments: Mapping[str, str]
) -> tuple[Parameter, ...]:
    """The keyword-only arguments of a function.

    Args:
        arguments: their help by name, see ``read_docstring``.
    """
    found = [
        item
        for item in inspect.signature(function).parameters.values()
        if item.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    # Only these annotations are resolved: those of tensors may exist for the type checker alone.
    wanted = types.SimpleNamespace(__annotations__={p.name: p.annotation for p in found})
    hints = typing.get_type_hints(
        wanted, globalns=getattr(function, "__globals__", {}), include_extras=True
    )
    return tuple(
        Parameter(p.name, hints[p.name], p.default, arguments.get(p.name, "")) for p in found
    )


def read_docstring(text: str, *, section: str = "Args") -> tuple[str, dict[str, str]]:
    """The first paragraph of a Google docstring, and the texts of a section by name."""
    summary = " ".join(text.partition("\n\n")[0].split())
    found = re.search(rf"^{section}:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    lines = found.group(1).splitlines() if found else []
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


def record_parameters(record: type[Any]) -> tuple[Parameter, ...]:
    """The fields of a record that a form can ask for, in their order.

    Args:
        record: a dataclass; its docstring's Attributes are the help.
    """
    _, helps = read_docstring(inspect.getdoc(record) or "", section="Attributes")
    hints = typing.get_type_hints(record, include_extras=True)
    found = (
        Parameter(
            field.name,
            hints[field.name],
            inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            helps.get(field.name, ""),
        )
        for field in dataclasses.fields(record)
    )
    return tuple(parameter for parameter in found if parameter.is_drawable)
