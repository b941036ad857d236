"""Target rule ``lowercase``: an answer in small letters."""


def lowercase(answer: str) -> str:
    """The answer in small letters."""
    return answer.lower()
