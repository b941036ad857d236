"""Numbers and moments as people read them."""

from datetime import UTC, datetime


def counted(n: int, noun: str) -> str:
    """A number with its noun, which takes an s unless there is one: "1 latent", "1,200 latents"."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"


def left_out_words(n: int) -> str:
    """What there is to say of conversations that an index does not hold."""
    return f"{counted(n, 'conversation')} left out, as the model's chat template refuses them."


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def too_long(what: str, text: str, most: int) -> str:
    """What to say of a text that is longer than is taken; "" for one that is not.

    Fields take longer texts than are used: one that simply refuses them says nothing at all.
    """
    if len(text) <= most:
        return ""
    return (
        f"{what} has {counted(len(text), 'character')}, but at most {most:,} are taken; shorten "
        f"it by {len(text) - most:,}."
    )


def shown_at(value: float, digits: int) -> float:
    """A value for a table of so many digits, which would write -0.000 for a little below zero."""
    return 0.0 if value <= 0 and round(value, digits) == 0 else value


def number_words(number: float) -> str:
    """A number as a person types it: 0.75, 1, 100000; -0 is 0."""
    return f"{number + 0.0:.12g}"


def moment_words(moment: str) -> str:
    """A moment as people read it: "28 November 2026, 02:25 UTC"; what is none stays as it is.

    Args:
        moment: ISO 8601, as records hold it.
    """
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    at = at.astimezone(UTC) if at.tzinfo else at
    return f"{at.day} {at:%B %Y, %H:%M}{' UTC' if at.tzinfo else ''}"
