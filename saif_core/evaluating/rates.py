"""From judged texts to rates with intervals, and paired tests between two sets of texts."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from saif_core.judging.fluency import distinct_share
from saif_core.records.evaluation import WORST_DISORDER, EvaluationText, Rates

CONFIDENCE = 0.95


def rates_of(texts: Sequence[EvaluationText]) -> Rates:
    """Shares of texts by grade and outcome, with Wilson intervals."""
    grades = [text.grade for text in texts if text.grade is not None]
    n_strict, n = grades.count("strict"), len(grades)
    n_loose = n_strict + grades.count("loose")
    outcomes = [text.outcome for text in texts]
    perplexities = [text.perplexity for text in texts if text.perplexity is not None]
    total = max(len(texts), 1)
    n_disorder = outcomes.count("disorder")
    n_useful = sum(text.is_useful for text in texts)
    return Rates(
        n=n,
        strict=n_strict / max(n, 1),
        strict_ci=wilson_interval(n_strict, n),
        loose=n_loose / max(n, 1),
        loose_ci=wilson_interval(n_loose, n),
        unjudged=len(texts) - n,
        success=outcomes.count("success") / total,
        retained=outcomes.count("retained") / total,
        disorder=n_disorder / total,
        disorder_ci=wilson_interval(n_disorder, len(texts)),
        perplexity=float(np.median(perplexities)) if perplexities else None,
        distinct_2=sum(distinct_share(text.text, 2) for text in texts) / total,
        useful=n_useful / max(n, 1),
        useful_ci=wilson_interval(n_useful, n),
    )


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share at 95%; everything is possible where nothing was seen."""
    if n == 0:
        return (0.0, 1.0)
    found = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return (float(found.low), float(found.high))


def merit(
    rates: Rates, *, worst_disorder: float = WORST_DISORDER
) -> tuple[bool, float, float, float, float]:
    """What settings are chosen by: readable, useful, strict, loose, disorder, in this order."""
    return (
        rates.disorder <= worst_disorder,
        rates.primary,
        rates.strict,
        rates.loose,
        -rates.disorder,
    )


def paired_p(
    texts: Sequence[EvaluationText],
    others: Sequence[EvaluationText],
    *,
    counts: Callable[[EvaluationText], bool] = lambda text: text.is_useful,
) -> float | None:
    """McNemar's exact test of texts on the same contents, two-sided.

    Args:
        counts: whether a text counts; by default the useful ones do.

    Returns:
        None where no content was judged in both.
    """
    pairs = [
        (counts(one), counts(other))
        for one, other in zip(texts, others, strict=True)
        if one.grade is not None and other.grade is not None
    ]
    if not pairs:
        return None
    n_only = sum(one and not other for one, other in pairs)
    n_differ = sum(one != other for one, other in pairs)
    return float(stats.binomtest(n_only, n_differ).pvalue) if n_differ else 1.0
