"""Contrast of two sets of texts: the latents that tell them apart, checked on texts held out.

Each text counts once, with the mean of a latent's activations over its tokens. Half of the texts
of each set ranks the latents; the other half, which the choice has not seen, measures them.

Source: Cohen's d with the pooled standard deviation; AUC as the Mann–Whitney statistic with ties
counted half; permutation p-values as (1 + number as extreme) / (1 + permutations), never 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saif_core.errors import PromptPairError
from saif_core.saes.latents import LatentActivations

# Two texts of each set in either half: with fewer there is no spread to compare with.
LEAST_TEXTS = 4
# A latent without any spread would have an infinite effect.
LARGEST_EFFECT = 100.0


@dataclass(frozen=True, eq=False)
class Contrast:
    """How each latent differs between two sets of texts; 0 (AUC: 0.5) where it never fires.

    Attributes:
        mean_difference: (d_sae,) positive less negative, on the ranking half.
        effect: (d_sae,) Cohen's d on the ranking half, at most ±LARGEST_EFFECT.
        auc: (d_sae,) on the held-out half: chance that the latent is more active on a positive
            text than on a negative one.
        best: (n,) latents of the largest |effect|, best first.
        p_values: (n,) of the AUC of ``best``, two-sided, not corrected for n tests.
        n_ranking, n_held_out: texts in the two halves.
    """

    mean_difference: Float[np.ndarray, " d_sae"]
    effect: Float[np.ndarray, " d_sae"]
    auc: Float[np.ndarray, " d_sae"]
    best: Int[np.ndarray, " n"]
    p_values: Float[np.ndarray, " n"]
    n_ranking: int
    n_held_out: int


class _Texts(NamedTuple):
    """Mean activations above 0: which text, which latent, how much."""

    text: Int[np.ndarray, " n_nonzero"]
    latent: Int[np.ndarray, " n_nonzero"]
    value: Float[np.ndarray, " n_nonzero"]
    is_positive: Bool[np.ndarray, " n_texts"]
    d_sae: int


def contrast(
    positive: LatentActivations,
    negative: LatentActivations,
    *,
    top: int = 20,
    n_permutations: int = 999,
    seed: int = 0,
) -> Contrast:
    """Rank latents by Cohen's d on one half of the texts, and measure their AUC on the other.

    Args:
        positive, negative: activations on every token; ``groups`` says which text each is of.
        top: latents that get a p-value, less those that fire on no text of the ranking half.
        n_permutations: of the labels of the held-out texts.
        seed: of the split and of the permutations.

    Raises:
        PromptPairError: a set has fewer than LEAST_TEXTS texts.
    """
    texts = _mean_by_text(positive, negative)
    n_positive = int(texts.is_positive.sum())
    n_negative = len(texts.is_positive) - n_positive
    if min(n_positive, n_negative) < LEAST_TEXTS:
        raise PromptPairError(
            f"Two sets of texts were to be compared, but they have {n_positive} and {n_negative} "
            f"texts with tokens; give at least {LEAST_TEXTS} of each."
        )
    rng = np.random.default_rng(seed)
    ranks_latents = _draw_half(texts.is_positive, rng)
    ranking, held_out = _select(texts, ranks_latents), _select(texts, ~ranks_latents)
    mean_difference, effect = _effects(ranking)
    fires = np.unique(ranking.latent)
    order = np.lexsort((-np.abs(mean_difference[fires]), -np.abs(effect[fires])))
    best = fires[order[:top]]
    ranks = _rank(held_out)
    return Contrast(
        mean_difference,
        effect,
        _all_aucs(held_out, ranks),
        best,
        _permutation_p_values(held_out, ranks, best, n_permutations, rng),
        n_ranking=len(ranking.is_positive),
        n_held_out=len(held_out.is_positive),
    )


def _mean_by_text(positive: LatentActivations, negative: LatentActivations) -> _Texts:
    d_sae = positive.d_sae
    texts, latents, values, labels = [], [], [], []
    n_before = 0
    for label, activations in ((True, positive), (False, negative)):
        _, text_of_row, n_tokens = np.unique(
            activations.groups, return_inverse=True, return_counts=True
        )
        cell = text_of_row[activations.row_of_nonzero()] * d_sae + activations.indices
        cells, cell_of_nonzero = np.unique(cell, return_inverse=True)
        text = cells // d_sae
        total = np.bincount(cell_of_nonzero, weights=activations.values, minlength=len(cells))
        texts.append(text + n_before)
        latents.append(cells % d_sae)
        values.append(total / n_tokens[text])
        labels.append(np.full(len(n_tokens), label))
        n_before += len(n_tokens)
    return _Texts(
        np.concatenate(texts),
        np.concatenate(latents),
        np.concatenate(values),
        np.concatenate(labels),
        d_sae,
    )


def _draw_half(
    is_positive: Bool[np.ndarray, " n_texts"], rng: np.random.Generator
) -> Bool[np.ndarray, " n_texts"]:
    """Half of the texts of each set, the larger half where a set is odd."""
    drawn = np.zeros(len(is_positive), dtype=bool)
    for label in (True, False):
        mine = rng.permutation(np.flatnonzero(is_positive == label))
        drawn[mine[: (len(mine) + 1) // 2]] = True
    return drawn


def _select(texts: _Texts, wanted: Bool[np.ndarray, " n_texts"]) -> _Texts:
    kept = wanted[texts.text]
    number = np.cumsum(wanted) - 1
    return _Texts(
        number[texts.text[kept]],
        texts.latent[kept],
        texts.value[kept],
        texts.is_positive[wanted],
        texts.d_sae,
    )


def _effects(
    texts: _Texts,
) -> tuple[Float[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
    """Difference of means and Cohen's d of every latent; texts on which it is silent count as 0."""
    means, squares = [], np.zeros(texts.d_sae)
    for label in (True, False):
        n_texts = int((texts.is_positive == label).sum())
        mine = texts.is_positive[texts.text] == label
        latent, value = texts.latent[mine], texts.value[mine]
        mean = np.bincount(latent, weights=value, minlength=texts.d_sae) / n_texts
        n_fires = np.bincount(latent, minlength=texts.d_sae)
        # Around the mean, as the difference of two large sums would lose small deviations.
        around = np.bincount(latent, weights=(value - mean[latent]) ** 2, minlength=texts.d_sae)
        squares += around + (n_texts - n_fires) * mean**2
        means.append(mean)
    difference = means[0] - means[1]
    deviation = np.sqrt(squares / (len(texts.is_positive) - 2))
    smallest = np.abs(difference) / LARGEST_EFFECT
    divisor = np.maximum(deviation, smallest)
    return difference, np.divide(
        difference, divisor, out=np.zeros_like(difference), where=divisor > 0
    )


class _Ranks(NamedTuple):
    """Rank from 1 of each text among all, by one latent's activation; equal ones share the mean."""

    nonzero: Float[np.ndarray, " n_nonzero"]  # of the entries of _Texts, in their order
    silent: Float[np.ndarray, " d_sae"]  # of texts on which the latent does not fire


def _rank(texts: _Texts) -> _Ranks:
    n_silent = len(texts.is_positive) - np.bincount(texts.latent, minlength=texts.d_sae)
    order = np.lexsort((texts.value, texts.latent))
    latent, value = texts.latent[order], texts.value[order]
    place = np.arange(len(order))
    new_latent = np.diff(latent, prepend=-1) != 0
    new_value = new_latent | (np.diff(value, prepend=-1.0) != 0)
    first_of_latent = place[new_latent][np.cumsum(new_latent) - 1]
    run = np.cumsum(new_value) - 1
    starts = place[new_value]
    middle = (starts + np.append(starts[1:], len(order)) - 1) / 2
    ranks = np.empty(len(order))
    ranks[order] = n_silent[latent] + middle[run] - first_of_latent + 1
    return _Ranks(ranks, (n_silent + 1) / 2)


def _all_aucs(texts: _Texts, ranks: _Ranks) -> Float[np.ndarray, " d_sae"]:
    n_positive = int(texts.is_positive.sum())
    mine = texts.is_positive[texts.text]
    latent = texts.latent[mine]
    n_silent = n_positive - np.bincount(latent, minlength=texts.d_sae)
    rank_sum = np.bincount(latent, weights=ranks.nonzero[mine], minlength=texts.d_sae)
    wins = rank_sum + n_silent * ranks.silent - n_positive * (n_positive + 1) / 2
    return np.asarray(wins / (n_positive * (len(texts.is_positive) - n_positive)))


def _permutation_p_values(
    texts: _Texts,
    ranks: _Ranks,
    latents: Int[np.ndarray, " n"],
    n_permutations: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " n"]:
    """Two-sided p-values of the latents' AUCs: how often random labels do at least as well."""
    n_texts = len(texts.is_positive)
    n_positive = int(texts.is_positive.sum())
    column = np.full(texts.d_sae, -1)
    column[latents] = np.arange(len(latents))
    mine = column[texts.latent] >= 0
    by_text = np.tile(ranks.silent[latents], (n_texts, 1))
    by_text[texts.text[mine], column[texts.latent[mine]]] = ranks.nonzero[mine]
    labels = np.tile(texts.is_positive, (n_permutations + 1, 1))
    labels[1:] = rng.permuted(labels[1:], axis=1)
    # Rank sums are halves of integers and so exact: AUCs that are equal count as equal.
    rank_sums = labels.astype(np.float64) @ by_text
    distance = np.abs(rank_sums - n_positive * (n_texts + 1) / 2)  # AUC 0.5 is at 0
    return np.asarray((distance >= distance[0]).mean(axis=0))
