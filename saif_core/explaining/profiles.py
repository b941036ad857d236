"""What a corpus says of each latent: density, quantiles, examples, partners, scores.

Everything is counted over every token. Latents are taken a block at a time, so that memory is
bounded whatever the corpus: each block is one pass over the stored activations.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import sparse

from saif_core.explaining.latent_scores import N_PROMOTED, input_score, output_scores
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.corpus import (
    HISTOGRAM_BINS,
    QUANTILES,
    CorpusBlock,
    LatentProfile,
    ProfileExample,
    ProfileText,
)
from saif_core.records.jobs import Step
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import read_logits

# Of what one block of latents holds in memory: 12 bytes each, and 4 bytes each.
MOST_POSTINGS = 1 << 24
MOST_PARTNERS = 1 << 26
N_TOP_EXAMPLES = 8
N_QUARTERS, N_PER_QUARTER = 4, 2
N_FIRING_TOKENS = 20
N_COFIRING = 8
N_TOKENS = 10
LOGIT_BINS = 20
N_SEARCHED_EXAMPLES = 4
TOKENS_BEFORE, TOKENS_AFTER = 14, 9
PHRASE_TOKENS = 4
LATENTS_PER_WRITE = 512
# Latents that met on fewer tokens may have met by chance.
LEAST_TOGETHER = 3

Blocks = Callable[[], Iterable[CorpusBlock]]
Profiled = tuple[LatentProfile, ProfileText]


@dataclass(frozen=True)
class _Tokens:
    """Every token of a corpus, numbered from 0 in its order.

    Attributes:
        ids: token ids.
        starts: (n_contexts + 1,) number of the first token of each context, and the end.
        is_first, is_special: per token.
    """

    ids: np.ndarray
    starts: np.ndarray
    is_first: np.ndarray
    is_special: np.ndarray


@dataclass(frozen=True)
class _Postings:
    """Where the latents of a block fire: by latent, then in the order of the corpus.

    Attributes:
        bounds: (n_latents + 1,) where each latent's postings start.
        numbers: of the tokens.
        values: activations, float32 as stored.
        together: (n_latents, d_sae) tokens on which each fires with every other latent.
    """

    bounds: np.ndarray
    numbers: np.ndarray
    values: np.ndarray
    together: np.ndarray

    def maximum(self, row: int) -> float:
        """Largest activation of a latent, 0 if it never fires."""
        return float(self.values[self.bounds[row] : self.bounds[row + 1]].max(initial=0))


def profile_latents(
    model: LoadedModel,
    sae: LoadedSae,
    blocks: Blocks,
    density: np.ndarray,
    *,
    step: Step | None = None,
) -> Iterator[list[Profiled]]:
    """Profiles of all latents, some hundred at a time, in ascending order.

    Args:
        blocks: the stored corpus, from its start, each time it is called.
        density: (d_sae,) tokens of the corpus on which each latent fires.
        step: told (latents done, latents in all, message).
    """
    tokens = _read_tokens(model, blocks())
    for start, end in _cut_latents(density):
        postings = _read_postings(blocks(), sae.d_sae, start, end)
        for first in range(start, end, LATENTS_PER_WRITE):
            latents = range(first, min(first + LATENTS_PER_WRITE, end))
            lenses = _read_lenses(model, sae, latents)
            maxima = [postings.maximum(latent - start) for latent in latents]
            s_out = output_scores(model, sae, latents, maxima).tolist()
            yield [
                _profile(latent, tokens, postings, latent - start, density, lens, score, model)
                for latent, lens, score in zip(latents, lenses, s_out, strict=True)
            ]
            if step:
                step(latents[-1] + 1, sae.d_sae, "describing latents")


def _read_tokens(model: LoadedModel, blocks: Iterable[CorpusBlock]) -> _Tokens:
    ids, lengths = [np.zeros(0, dtype=np.uint32)], [np.zeros(0, dtype=np.int64)]
    for block in blocks:
        ids.append(block.token_ids)
        lengths.append(np.diff([*block.context_starts, len(block.token_ids)]))
    all_ids = np.concatenate(ids)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    is_first = np.zeros(len(all_ids), dtype=bool)
    is_first[starts[:-1]] = True
    return _Tokens(all_ids, starts, is_first, np.isin(all_ids, model.tokenizer.all_special_ids))


def _cut_latents(density: np.ndarray) -> Iterator[tuple[int, int]]:
    """Blocks of latents whose postings and partners fit into memory."""
    total = np.concatenate([[0], np.cumsum(density)])
    start, d_sae = 0, len(density)
    while start < d_sae:
        by_postings = int(np.searchsorted(total, total[start] + MOST_POSTINGS, side="right")) - 1
        end = min(max(by_postings, start + 1), start + max(MOST_PARTNERS // d_sae, 1), d_sae)
        yield start, end
        start = end


def _read_postings(blocks: Iterable[CorpusBlock], d_sae: int, start: int, end: int) -> _Postings:
    latents, numbers, values = [], [], []
    together = np.zeros((end - start, d_sae), dtype=np.int32)
    n_tokens = 0
    for block in blocks:
        mine = (block.indices >= start) & (block.indices < end)
        owners = np.repeat(np.arange(len(block.counts)), block.counts)[mine]
        latents.append((block.indices[mine] - start).astype(np.int32))
        numbers.append((owners + n_tokens).astype(np.uint32))
        values.append(block.values[mine])
        fires = partial(sparse.csr_array, shape=(len(block.counts), d_sae))
        ends = np.concatenate([[0], np.cumsum(block.counts)])
        everyone = fires((np.ones(len(block.indices), np.int32), block.indices, ends))
        pairs = (everyone[:, start:end].T @ everyone).tocoo()
        together[pairs.row, pairs.col] += pairs.data
        n_tokens += len(block.counts)
    latent = np.concatenate([np.zeros(0, np.int32), *latents])
    # Stable, so that the postings of a latent stay in the order of the corpus.
    order = np.argsort(latent, kind="stable")
    bounds = np.searchsorted(latent[order], np.arange(end - start + 1))
    return _Postings(
        bounds,
        np.concatenate([np.zeros(0, np.uint32), *numbers])[order].astype(np.int64),
        np.concatenate([np.zeros(0, np.float32), *values])[order],
        together,
    )


@dataclass(frozen=True)
class _Lens:
    """What a decoder direction does to the logits.

    Attributes:
        promoted, suppressed: (token id, logit), the strongest first; N_PROMOTED of the former.
        histogram: tokens of the vocabulary in equal bins of ``span``.
    """

    promoted: list[tuple[int, float]]
    suppressed: list[tuple[int, float]]
    histogram: tuple[int, ...]
    span: tuple[float, float]


def _read_lenses(model: LoadedModel, sae: LoadedSae, latents: Sequence[int]) -> Iterator[_Lens]:
    for part in model.logit_parts(len(latents)):
        logits = read_logits(model, sae.W_dec[list(latents[part])]).cpu()
        best = logits.topk(min(N_PROMOTED, logits.shape[-1]), dim=-1)
        worst = logits.topk(min(N_TOKENS, logits.shape[-1]), dim=-1, largest=False)
        for row, line in enumerate(logits):
            span = (float(line.min()), float(line.max()))
            counts = torch.histc(line, LOGIT_BINS, *span)
            yield _Lens(
                list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)),
                list(zip(worst.indices[row].tolist(), worst.values[row].tolist(), strict=True)),
                tuple(int(count) for count in counts),
                span,
            )


def _profile(
    latent: int,
    tokens: _Tokens,
    postings: _Postings,
    row: int,
    density: np.ndarray,
    lens: _Lens,
    s_out: float,
    model: LoadedModel,
) -> Profiled:
    mine = slice(postings.bounds[row], postings.bounds[row + 1])
    numbers, values = postings.numbers[mine], postings.values[mine]
    maximum = postings.maximum(row)
    # Ties stay in the order of the corpus.
    strongest = np.argsort(-values, kind="stable")
    firing = tokens.ids[numbers[strongest[:N_FIRING_TOKENS]]].tolist()
    examples = _examples(latent, tokens, numbers, values, strongest)
    counts, _ = np.histogram(values, HISTOGRAM_BINS, (0, maximum or 1))
    profile = LatentProfile(
        latent=latent,
        n_fired=len(values),
        maximum=maximum,
        mean=float(values.mean(dtype=np.float64)) if len(values) else 0.0,
        quantiles=tuple(np.quantile(values, QUANTILES)) if len(values) else (0.0,) * len(QUANTILES),
        histogram=tuple(counts.tolist()),
        n_first=int(tokens.is_first[numbers].sum()),
        n_special=int(tokens.is_special[numbers].sum()),
        cofiring=_cofiring(latent, postings.together[row], density),
        examples=examples,
        promoted=tuple(lens.promoted[:N_TOKENS]),
        suppressed=tuple(lens.suppressed),
        logit_histogram=lens.histogram,
        logit_range=lens.span,
        s_in=input_score(firing, [token for token, _ in lens.promoted]),
        s_out=s_out,
    )
    return profile, _words(model, tokens, profile, firing)


def _examples(
    latent: int,
    tokens: _Tokens,
    numbers: np.ndarray,
    values: np.ndarray,
    strongest: np.ndarray,
) -> tuple[ProfileExample, ...]:
    contexts = np.searchsorted(tokens.starts, numbers, side="right") - 1
    taken: set[int | bytes] = set()

    def take(order: np.ndarray, kind: int, n: int) -> Iterator[ProfileExample]:
        for at in order.tolist():
            if not n:
                return
            context, number = int(contexts[at]), int(numbers[at])
            start = max(int(tokens.starts[context]), number + 1 - PHRASE_TOKENS)
            phrase = tokens.ids[start : number + 1].tobytes()
            # One of each context and phrase: what a corpus repeats would fill the page.
            if context not in taken and phrase not in taken:
                taken.update((context, phrase))
                n -= 1
                yield _example(kind, context, number, tokens, numbers, values)

    found = list(take(strongest, 0, N_TOP_EXAMPLES))
    # Drawn by a hash of token and latent: random, yet the same each time.
    lots = (numbers.astype(np.uint64) * 2654435761 + latent * 40503) % (1 << 32)
    drawn = np.argsort(lots, kind="stable")
    quarters = np.minimum(values / (values.max(initial=0) or 1) * N_QUARTERS, N_QUARTERS - 1)
    for quarter in range(N_QUARTERS):
        inside = drawn[quarters[drawn].astype(int) == quarter]
        found += take(inside, quarter + 1, N_PER_QUARTER)
    return tuple(found)


def _example(
    kind: int,
    context: int,
    number: int,
    tokens: _Tokens,
    numbers: np.ndarray,
    values: np.ndarray,
) -> ProfileExample:
    first, end = int(tokens.starts[context]), int(tokens.starts[context + 1])
    start, stop = max(first, number - TOKENS_BEFORE), min(end, number + TOKENS_AFTER + 1)
    activations = np.zeros(stop - start, dtype=np.float32)
    inside = slice(*np.searchsorted(numbers, (start, stop)))
    activations[numbers[inside] - start] = values[inside]
    return ProfileExample(kind, context, number - first, start - first, activations)


def _cofiring(
    latent: int, together: np.ndarray, density: np.ndarray
) -> tuple[tuple[int, int], ...]:
    """Latents that share the largest part of their tokens with this one, and how many tokens.

    Ordered by n_both / sqrt(n_a · n_b): counts alone would name the densest latents every time.
    """
    shared = together.astype(np.float64)
    shared[latent] = 0
    shared[together < LEAST_TOGETHER] = 0
    shared /= np.sqrt(np.maximum(density, 1) * max(int(density[latent]), 1))
    best = np.argsort(-shared, kind="stable")[:N_COFIRING]
    return tuple((int(other), int(together[other])) for other in best if shared[other] > 0)


def _words(
    model: LoadedModel, tokens: _Tokens, profile: LatentProfile, firing: Sequence[int]
) -> ProfileText:
    """What the latent can be found by."""
    strongest = []
    for example in profile.examples[:N_SEARCHED_EXAMPLES]:
        start = int(tokens.starts[example.context]) + example.start
        ids = tokens.ids[start : start + len(example.activations)].tolist()
        strongest.append(model.decode(ids))
    return ProfileText(
        promotes=" ".join(model.token_text(token) for token, _ in profile.promoted),
        fires_on=" ".join(model.token_text(token) for token in dict.fromkeys(firing)),
        examples="\n".join(strongest),
    )
