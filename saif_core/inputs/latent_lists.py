"""Latents as people and addresses write them: INDEX:COEFFICIENT, with commas between them."""

import math
from collections.abc import Iterable

from saif_core.errors import SteeringError
from saif_core.records.ranking import MAX_COEFFICIENT, ChosenLatent

MAX_INDEX_DIGITS = 9


def parse_latents(text: str) -> tuple[ChosenLatent, ...]:
    """The latents of a list; none of an empty one.

    Raises:
        SteeringError: the text is not of that form.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    return tuple(_parse(part) for part in parts)


def format_latents(latents: Iterable[ChosenLatent]) -> str:
    """Latents as ``parse_latents`` reads them."""
    return ",".join(f"{latent.index}:{latent.coefficient:.9g}" for latent in latents)


def _parse(part: str) -> ChosenLatent:
    index, _, coefficient = part.partition(":")
    try:
        value = float(coefficient)
    except ValueError:
        value = math.nan
    is_index = index.isascii() and index.isdigit() and len(index) <= MAX_INDEX_DIGITS
    # A range check that is negated refuses what is no number as well.
    if not is_index or not abs(value) <= MAX_COEFFICIENT:
        raise SteeringError(
            f"The list of latents holds {part[:40]!r}, which is not INDEX:COEFFICIENT; write "
            f"latents as in 12:3.5,407:1.2, with coefficients up to {MAX_COEFFICIENT:,.0f}."
        )
    return ChosenLatent(int(index), value)
