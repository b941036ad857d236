"""Latent activations of a corpus: plain records, and the bytes that they are kept as.

Sparse activations are rows of tokens (CSR): how many latents fire on each token, which, and how
much. A profile is what a whole corpus says of one latent. Nothing here knows a model or a database.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from saif_core.records.as_json import Record, new_id, utc_now

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
HISTOGRAM_BINS = 32
N_KINDS = 5

LatentSort = Literal["latent", "density", "maximum", "s_in", "s_out"]
FoundIn = Literal["label", "tokens", "examples"]


@dataclass(frozen=True)
class CorpusBlock(Record):
    """Some contexts of a corpus, tokens in a row, with the latents that fire on each token.

    Attributes:
        token_ids: (n_tokens,) uint32.
        context_starts: (n_contexts,) where each context starts in ``token_ids``; the first is 0.
        counts: (n_tokens,) latents that fire on each token.
        indices: (n_nonzero,) latent index of each activation, token by token.
        values: (n_nonzero,) the activations, all positive.
        documents: (n_contexts,) name of the document that each context is cut from.
    """

    token_ids: np.ndarray
    context_starts: np.ndarray
    counts: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    documents: tuple[str, ...]


@dataclass(frozen=True)
class LatentIndex(Record):
    """What is known of a corpus that was read through one SAE.

    Attributes:
        sae_id: name that the SAE was asked for by.
        source_sha256: hash of the text; empty where it is not known.
        n_contexts, n_tokens, n_nonzero: what was added so far.
        n_listed: contexts that the density takes in.
        finished: nothing can be added any more.
    """

    name: str
    model_sha256: str
    sae_sha256: str
    d_sae: int
    hook_point: str = ""
    sae_id: str = ""
    source_sha256: str = ""
    n_contexts: int = 0
    n_tokens: int = 0
    n_nonzero: int = 0
    n_listed: int = 0
    finished: bool = False
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class ProfileExample(Record):
    """A token on which a latent fires, in a window of its context.

    Attributes:
        kind: 0 for one of the largest activations; 1 to 4 for one sampled from that quarter of the
            range from 0 to the maximum.
        context: ordinal of the context in its index.
        position: of the token in the context.
        start: of the window in the context.
        activations: (n_window,) float32, of the latent on every token of the window.
    """

    kind: int
    context: int
    position: int
    start: int
    activations: np.ndarray


@dataclass(frozen=True)
class LatentProfile(Record):
    """What a corpus says of one latent; numbers have the precision of float32.

    Attributes:
        n_fired: tokens on which it fires.
        maximum, mean: of its activation where it fires.
        quantiles: of its activation where it fires, at QUANTILES.
        histogram: tokens in each of 32 equal bins from 0 to the maximum.
        n_first, n_special: how many of ``n_fired`` are the first token of a context, or special.
        cofiring: (latent, tokens on which both fire).
        promoted, suppressed: (token id, logit) of its decoder direction.
        logit_histogram: tokens of the vocabulary in equal bins of ``logit_range``.
        s_in, s_out: input and output score; None where not measured.
    """

    latent: int
    n_fired: int
    maximum: float
    mean: float
    quantiles: tuple[float, ...]
    histogram: tuple[int, ...]
    n_first: int
    n_special: int
    cofiring: tuple[tuple[int, int], ...]
    examples: tuple[ProfileExample, ...]
    promoted: tuple[tuple[int, float], ...]
    suppressed: tuple[tuple[int, float], ...]
    logit_histogram: tuple[int, ...]
    logit_range: tuple[float, float]
    s_in: float | None = None
    s_out: float | None = None


@dataclass(frozen=True)
class ProfileText(Record):
    """The words by which a latent is found: tokens it promotes and fires on, and its examples."""

    promotes: str
    fires_on: str
    examples: str


@dataclass(frozen=True)
class LatentFilter(Record):
    """Which latents of an index to list; all conditions must hold.

    Attributes:
        min_density, max_density: bounds, themselves allowed, of the share of tokens it fires on.
        min_s_in, min_s_out: latents that were not measured do not pass.
        starred: only those that anyone starred.
        labelled: only those that people gave a label.
        text: words to find, all of them, in any case; the beginnings of words will do, from two
            letters on.
        latents: only these.
    """

    min_density: float | None = None
    max_density: float | None = None
    min_s_in: float | None = None
    min_s_out: float | None = None
    starred: bool = False
    labelled: bool = False
    text: str = ""
    latents: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LatentSummary(Record):
    """A line in the list of latents.

    Attributes:
        density: share of the corpus's tokens on which it fires.
        promotes: the tokens its decoder direction promotes, as text.
        label: the newest that people gave it.
        found_in: where the words that were searched for stand.
    """

    latent: int
    n_fired: int
    density: float
    maximum: float
    s_in: float | None
    s_out: float | None
    promotes: str
    label: str | None
    starred: bool
    found_in: tuple[FoundIn, ...]


@dataclass(frozen=True)
class LatentPage(Record):
    """Some lines of a list of latents, and how many the whole list has."""

    rows: tuple[LatentSummary, ...]
    n_total: int


@dataclass(frozen=True)
class IndexRequest(Record):
    """What to read.

    Attributes:
        name: of the indexes, for people.
        paths: files and folders of text.
        sae_ids: SAEs to read it through, all in one pass.
    """

    name: str
    paths: tuple[str, ...]
    sae_ids: tuple[str, ...]
