"""Which contents and wordings sources learn from, and which an evaluation tests on."""

from collections.abc import Sequence

from saif_core.errors import EvaluatorError


def split_contents(
    contents: Sequence[str], n_rank: int, n_test: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first contents to rank on and the last ones to test on; repeated ones count once.

    Raises:
        EvaluatorError: there are too few for both.
    """
    distinct = list(dict.fromkeys(contents))
    if n_rank + n_test > len(distinct):
        raise EvaluatorError(
            f"{n_rank} contents to rank on and {n_test} to test on are more than there are: there "
            f"are {len(distinct)} different ones; lower one of the two, or give more contents."
        )
    return tuple(distinct[:n_rank]), tuple(distinct[len(distinct) - n_test :])


def split_wordings(wordings: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wordings to rank with and to prompt with, in turn; one alone does both."""
    return tuple(wordings[::2]), tuple(wordings[1::2] or wordings)
