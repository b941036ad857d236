"""How candidates of an evaluation are written in a terminal: ``SOURCE`` or ``SOURCE:METHOD``.

``+prompt`` behind one puts the instruction into the prompt as well.

Values to try are ``--source-parameter SOURCE.NAME=V1,V2`` and
``--method-parameter METHOD.NAME=V1,V2``; those of a text are one each, so that it may hold commas.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from app.cli.values import NOTHING, raw_value
from saif_core.errors import SteeringError
from saif_core.parameters import Parameter
from saif_core.records.evaluation import DEFAULT_CANDIDATES, Candidate

if TYPE_CHECKING:
    from saif_core.registry import Registered

PROMPTED = "+prompt"
_ITEM = re.compile(r"([\w-]+(?::[\w-]+)?)\.([a-z_]\w*)=(.*)", re.DOTALL)


class Named(NamedTuple):
    """What a candidate is named by."""

    source: str
    method: str
    prompted: bool = False


class Tried(NamedTuple):
    """Values to try of one parameter, as they were typed.

    Attributes:
        of: a source, a source with its method, or a method.
    """

    of: str
    name: str
    text: str


def tried_values(option: str, items: Sequence[str] | None) -> tuple[Tried, ...]:
    """The values that were given.

    Raises:
        SteeringError: an item is not of that form.
    """
    found = []
    for item in items or ():
        match = _ITEM.fullmatch(item)
        if match is None:
            raise SteeringError(
                f"{option} is {item!r}, which is not WHOSE.NAME=V1,V2; write it so, as in "
                "saif.top=5,15."
            )
        found.append(Tried(*match.groups()))
    return tuple(found)


def named_candidates(sources: Sequence[str] | None, method: str) -> list[Named]:
    """What each candidate is named by, each once; "none" alone names none.

    Args:
        sources: as they were typed; None takes the default ones.
        method: of those that name none themselves.
    """
    if sources is None:
        return [Named(one.source, method) for one in DEFAULT_CANDIDATES]
    if list(sources) == [NOTHING]:
        return []
    found = []
    for name in sources:
        source, _, own = name.removesuffix(PROMPTED).partition(":")
        found.append(Named(source, own or method, name.endswith(PROMPTED)))
    return list(dict.fromkeys(found))


def make_candidates(
    named: Iterable[Named],
    of_sources: Sequence[Tried],
    of_methods: Sequence[Tried],
    given: Sequence[Candidate] = (),
) -> tuple[Candidate, ...]:
    """The candidates with everything that is to be tried.

    Args:
        given: further candidates, whole.

    Raises:
        SaifError: a source or method does not exist, or values are of none of the candidates.
    """
    from saif_core.registry import SOURCES, find_writer

    made = []
    used: set[Tried] = set()
    for source, method, prompted in named:
        mine = [one for one in of_sources if one.of in (source, f"{source}:{method}")]
        its = [one for one in of_methods if one.of == method]
        used.update(mine, its)
        grid = _grid(SOURCES.get(source), mine)
        made.append(
            Candidate(
                source, grid, method, _grid(find_writer(method), its) if method else {}, prompted
            )
        )
    odd = next((one for one in (*of_sources, *of_methods) if one not in used), None)
    if odd is not None:
        arms = ", ".join(f"{one.source}:{one.method}".rstrip(":") for one in named) or NOTHING
        raise SteeringError(
            f"{odd.of}.{odd.name}={odd.text} is of none of the candidates, which are: {arms}; name "
            "one of these, or add it with --source."
        )
    return (*made, *given)


def _grid(registered: "Registered[Any]", tried: Iterable[Tried]) -> dict[str, tuple[Any, ...]]:
    known = {parameter.name: parameter for parameter in registered.parameters}
    found: dict[str, dict[Any, None]] = {}
    for one in tried:
        values = _values(known.get(one.name), one.text)
        found.setdefault(one.name, {}).update(dict.fromkeys(values))
    return {name: tuple(values) for name, values in found.items()}


def _values(parameter: Parameter | None, text: str) -> list[Any]:
    is_text = parameter is not None and parameter.kind is str
    parts = [text] if is_text else [part.strip() for part in text.split(",")]
    return [raw_value(parameter, part) for part in parts]
