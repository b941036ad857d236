"""Numbers as people read them."""


def counted(n: int, noun: str) -> str:
    """A number with its noun, which takes an s unless there is one: "1 latent", "1,200 latents"."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"


def shown_at(value: float, digits: int) -> float:
    """A value for a table of so many digits, which would write -0.000 for a little below zero."""
    return 0.0 if value <= 0 and round(value, digits) == 0 else value
