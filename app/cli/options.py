"""Options of commands, drawn from the records, so that no door lacks a field.

A command is a function whose arguments are single options, records and groups (dataclasses of
options). ``add_command`` spreads each record and group into its options and puts what was given
together again, so a command's body sees records.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache, wraps
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from saif_core.errors import SaifError
from saif_core.parameters import Parameter, read_docstring, record_parameters
from saif_core.records.as_json import Record, from_json, to_json

F = TypeVar("F", bound=Callable[..., Any])

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]


@dataclass(frozen=True)
class Of:
    """Marks an option whose range, choices and help are those of a record's field.

    Attributes:
        record: has the field.
        name: of the field; "" for that of the argument.
        help: instead of the record's.
    """

    record: type[Record]
    name: str = ""
    help: str = ""


@dataclass(frozen=True)
class Without:
    """Marks a record of which a command offers all fields but these."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class _Argument:
    """An argument as typer takes it."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty


def add_command(app: typer.Typer, name: str, function: F, **settings: Any) -> F:
    """Offer a function as a command, its records and groups spread into options."""
    app.command(name, **settings)(spread(function))
    return function


def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for typer: one argument for each option of every record and group."""
    hints = get_type_hints(function, include_extras=True)
    arguments: list[_Argument] = []
    wholes: dict[str, _Whole] = {}
    for name, argument in inspect.signature(function).parameters.items():
        whole = _whole(hints[name], argument.default)
        if whole is None:
            arguments.append(_single(_Argument(name, hints[name], argument.default)))
        else:
            wholes[name] = whole
            arguments += whole.arguments()

    @wraps(function)
    def run(**given: Any) -> Any:
        made = {name: whole.put_together(given) for name, whole in wholes.items()}
        taken = {item.name for whole in wholes.values() for item in whole.arguments()}
        return function(**{name: v for name, v in given.items() if name not in taken}, **made)

    run.__annotations__ = {item.name: item.annotation for item in arguments}
    vars(run)["__signature__"] = inspect.Signature(
        [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=item.default,
                annotation=item.annotation,
            )
            for item in arguments
        ]
    )
    return run


def record_options(
    record: type[Record], default: Record | None = None, without: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """Every field of a record that a command can ask for: its name, annotation and default.

    Args:
        default: has the defaults; None takes those of the record.
        without: fields to leave out.
    """
    known = {parameter.name: parameter for parameter in record_parameters(record)}
    _, helps = read_docstring(inspect.getdoc(record) or "", section="Attributes")
    hints = get_type_hints(record)
    for field in fields(record):  # type: ignore[arg-type]  # every record is a dataclass
        name = field.name
        value: Any = getattr(default or record, name, inspect.Parameter.empty)
        if name in without:
            continue
        if name in known:
            yield name, _drawn(known[name]), value
        elif hints[name] == tuple[str, ...]:
            yield name, _repeated(name, helps.get(name, "")), list(value) or None


@dataclass(frozen=True)
class _Whole:
    """A record or a group that is asked for option by option."""

    kind: type[Any]
    default: Any
    without: tuple[str, ...]

    def arguments(self) -> list[_Argument]:
        return list(_arguments(self))

    def put_together(self, given: Mapping[str, Any]) -> Any:
        names = [item.name for item in self.arguments()]
        if not issubclass(self.kind, Record):
            return self.kind(**{name: given[name] for name in names})
        data = {name: given[name] for name in names}
        listed = {n: tuple(v or ()) for n, v in data.items() if isinstance(v, list | None)}
        left_out = {name: getattr(self.default, name) for name in self.without}
        return checked(self.kind(**data | listed | left_out))


def checked(record: Record) -> Any:
    """The record itself.

    Raises:
        SaifError: a value in it does not fit; the message names the field.
    """
    try:
        from_json(type(record), to_json(record))
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise SaifError(f"An option does not fit: {reason}") from error
    return record


@lru_cache(maxsize=64)
def _arguments(whole: _Whole) -> tuple[_Argument, ...]:
    if issubclass(whole.kind, Record):
        found = record_options(whole.kind, whole.default, whole.without)
        return tuple(_Argument(*option) for option in found)
    hints = get_type_hints(whole.kind, include_extras=True)
    return tuple(
        _single(
            _Argument(
                field.name,
                hints[field.name],
                inspect.Parameter.empty if field.default is MISSING else field.default,
            )
        )
        for field in fields(whole.kind)
    )


def _whole(hint: Any, default: Any) -> _Whole | None:
    """The record or group that an argument is; None for a single option."""
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *found = get_args(hint)
        extras = tuple(found)
    if not (isinstance(hint, type) and is_dataclass(hint)):
        return None
    without = next((item.names for item in extras if isinstance(item, Without)), ())
    is_given = default is not inspect.Parameter.empty
    if issubclass(hint, Record) and not is_given:
        default, is_given = hint(), True
    return _Whole(hint, default if is_given else None, without)


def _single(argument: _Argument) -> _Argument:
    """The same, drawn from the record's field that it is marked with."""
    if get_origin(argument.annotation) is not Annotated:
        return argument
    kind, *extras = get_args(argument.annotation)
    mark = next((item for item in extras if isinstance(item, Of)), None)
    if mark is None:
        return argument
    name = mark.name or argument.name
    found = next(p for p in record_parameters(mark.record) if p.name == name)
    return _Argument(argument.name, _drawn(found, argument.name, mark.help, kind), argument.default)


def _drawn(parameter: Parameter, name: str = "", help: str = "", kind: Any = None) -> Any:
    """An option for a parameter, whose values the parameter itself accepts or refuses.

    Args:
        name: of the option; "" for the parameter's own.
        help: instead of the parameter's.
        kind: annotation of the option; None for that of the parameter.
    """
    flag = "--" + (name or parameter.name).replace("_", "-")
    if parameter.kind is bool:
        flag += f"/--no-{flag[2:]}"
    if kind is None:
        kind = parameter.kind | None if parameter.optional else parameter.kind
    option = typer.Option(flag, help=_help(parameter, help), callback=_accepting(parameter))
    return Annotated[kind, option]


def _repeated(name: str, help: str) -> Any:
    """An option for a field that holds several texts."""
    flag = "--" + name.replace("_", "-")
    words = _sentence(help) + " May be given several times."
    option = typer.Option(flag, metavar="TEXT", show_default=False, help=words)
    return Annotated[list[str] | None, option]


def _accepting(parameter: Parameter) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        try:
            return parameter.accept(value)
        except ValueError as error:
            raise typer.BadParameter(f"it {error}.") from error

    return accept


def _help(parameter: Parameter, help: str) -> str:
    """What a parameter is for, and its range where it has one."""
    text = (help or parameter.help).rstrip(".")
    if not parameter.choices and parameter.kind in (int, float):
        words = parameter.expects.removesuffix(", or nothing")
        bounds = words.removeprefix("a whole number").removeprefix("a number")
        text += f"; a number{bounds}" if bounds else ""
    return _sentence(text)


def _sentence(text: str) -> str:
    """A docstring's words as a sentence."""
    plain = text.replace("``", "").rstrip(".")
    return f"{plain[:1].upper()}{plain[1:]}." if plain else ""
