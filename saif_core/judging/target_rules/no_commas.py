"""Target rule ``no_commas``: an answer with its commas left out."""


def no_commas(answer: str) -> str:
    """The answer with its commas left out."""
    return " ".join(answer.replace(",", " ").split())
