"""Target rule ``capitals``: an answer in capital letters."""


def capitals(answer: str) -> str:
    """The answer in capital letters."""
    return answer.upper()
