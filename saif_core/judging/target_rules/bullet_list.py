"""Target rule ``bullet_list``: the first sentences of an answer as the points of a list."""

from saif_core.judging.target_rules._sentences import whole_sentences

# More would not end within the tokens that an answer usually has.
POINTS = 2


def bullet_list(answer: str) -> str:
    """The first two sentences of the answer, each as a point."""
    return "\n".join(f"- {sentence}" for sentence in whole_sentences(answer)[:POINTS])
