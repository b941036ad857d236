"""Latent activations of a corpus: plain records, and the bytes that they are kept as.

Sparse activations are rows of tokens (CSR): how many latents fire on each token, which, and how
much. A profile is what a whole corpus says of one latent. Nothing here knows a model or a database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from saif_core.errors import StorageError
from saif_core.records import new_id, utc_now

SHIPPED_INDEXES = Path(__file__).parent / "defaults" / "indexes"

PAYLOAD_VERSION = 1
WIDE_COUNTS, WIDE_INDICES = 1, 2
HEADER_BYTES = 10
SMALLEST_HALF = np.finfo(np.float16).smallest_subnormal

PROFILE_VERSION = 1
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
HISTOGRAM_BINS = 32
N_KINDS = 5
HAS_S_IN, HAS_S_OUT = 1, 2
COUNT_TYPES = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
FLOAT_TYPE = np.dtype("<f4")
# Zeros of a window take no bytes, so a damaged profile could ask for any amount of memory.
MOST_WINDOW_TOKENS = 1 << 20

LatentSort = Literal["latent", "density", "maximum", "s_in", "s_out"]
FoundIn = Literal["label", "tokens", "examples"]
NoteKind = Literal["label", "note", "star"]


@dataclass(frozen=True)
class CorpusBlock:
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
class LatentIndex:
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
class ProfileExample:
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
class LatentProfile:
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
class ProfileText:
    """The words by which a latent is found: tokens it promotes and fires on, and its examples."""

    promotes: str
    fires_on: str
    examples: str


@dataclass(frozen=True)
class LatentFilter:
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
class LatentSummary:
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
class LatentPage:
    """Some lines of a list of latents, and how many the whole list has."""

    rows: tuple[LatentSummary, ...]
    n_total: int


@dataclass(frozen=True)
class LatentNote:
    """What someone says of a latent; ``source`` names the catalogue of an imported label."""

    sae_sha256: str
    latent: int
    kind: NoteKind
    text: str
    author: str
    source: str = ""
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)


@dataclass(frozen=True)
class LatentDescription:
    """What a method says a latent stands for, with what it was made from and how it scored.

    Attributes:
        method: how it was made.
        model, prompt: what wrote it, from what; empty where no language model did.
        evidence: JSON-ready, whatever the method keeps.
        input_score, output_score: how well it predicts where the latent fires, and what it does.
    """

    sae_sha256: str
    latent: int
    method: str
    text: str
    model: str = ""
    prompt: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    input_score: float | None = None
    output_score: float | None = None
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)


def pack_activations(
    counts: np.ndarray, indices: np.ndarray, values: np.ndarray, d_sae: int
) -> bytes:
    """Sparse rows as bytes: 4 per activation for up to 65,536 latents, 2 per row, and 10.

    Values become float16 shares of the largest one: the relative error is at most 5e-4 from
    2**-14 of the largest upwards and grows below; none becomes zero.

    Args:
        counts: (n_rows,) activations in each row.
        indices: (n_nonzero,) latent index of each activation, row by row.
        values: (n_nonzero,) positive and finite.
    """
    largest = np.float32(values.max()) if len(values) else np.float32(1)
    shares = (values.astype(np.float32, copy=False) / largest).astype(np.float16)
    wide_counts = WIDE_COUNTS if counts.max(initial=0) >= 1 << 16 else 0
    wide_indices = WIDE_INDICES if d_sae > 1 << 16 else 0
    return b"".join(
        [
            bytes([PAYLOAD_VERSION, wide_counts | wide_indices]),
            np.array(len(counts), "<u4").tobytes(),
            largest.astype("<f4").tobytes(),
            counts.astype("<u4" if wide_counts else "<u2").tobytes(),
            np.maximum(shares, SMALLEST_HALF).astype("<f2", copy=False).tobytes(),
            indices.astype("<u4" if wide_indices else "<u2").tobytes(),
        ]
    )


def unpack_activations(payload: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (int64), indices (int64) and values (float32) that ``pack_activations`` was given.

    Raises:
        StorageError: the bytes are of another version, or cut short.
    """
    if len(payload) < HEADER_BYTES or payload[0] != PAYLOAD_VERSION:
        raise StorageError(
            "Stored activations were to be read, but another version of SAIF wrote them; "
            "use that version or another database."
        )
    count_type = np.dtype("<u4" if payload[1] & WIDE_COUNTS else "<u2")
    index_type = np.dtype("<u4" if payload[1] & WIDE_INDICES else "<u2")
    n_rows = int(np.frombuffer(payload, "<u4", 1, 2)[0])
    largest = np.frombuffer(payload, "<f4", 1, 6)[0]
    counts = np.frombuffer(payload, count_type, n_rows, HEADER_BYTES).astype(np.int64)
    start = HEADER_BYTES + n_rows * count_type.itemsize
    n_nonzero = int(counts.sum())
    shares = np.frombuffer(payload, "<f2", n_nonzero, start)
    indices = np.frombuffer(payload, index_type, n_nonzero, start + 2 * n_nonzero)
    return counts, indices.astype(np.int64), shares.astype(np.float32) * largest


def pack_profile(profile: LatentProfile) -> bytes:
    """A profile as bytes: about 30 per example with 4 activations, and 500 for the rest.

    A window is kept as the offsets and values of the tokens on which the latent fires. Values stay
    float32: what ``unpack_activations`` returns is a product of a float16 share with a float32
    that differs from context to context, so nothing shorter holds it exactly.

    Raises:
        StorageError: a list has the wrong length, or a number is negative or not finite where it
            cannot be.
    """
    examples = profile.examples
    lengths = [len(example.activations) for example in examples]
    windows = np.concatenate([np.zeros(0, np.float32), *(e.activations for e in examples)])
    ends = np.cumsum(lengths, dtype=np.int64)
    fired = np.flatnonzero(windows)
    fired_in = np.searchsorted(ends, fired, side="right")
    offsets = fired - (ends - lengths)[fired_in]
    lists = (profile.cofiring, examples, profile.promoted, profile.suppressed)
    if (
        len(profile.quantiles) != len(QUANTILES)
        or len(profile.histogram) != HISTOGRAM_BINS
        or sum(lengths) > MOST_WINDOW_TOKENS
        or any(example.kind >= N_KINDS for example in examples)
    ):
        raise _contradiction(profile.latent)
    numbers = [profile.maximum, profile.mean, *profile.quantiles, *profile.logit_range]
    numbers += [profile.s_in or 0.0, profile.s_out or 0.0]
    has_s_in = HAS_S_IN if profile.s_in is not None else 0
    has_s_out = HAS_S_OUT if profile.s_out is not None else 0
    try:
        return b"".join(
            [
                bytes([PROFILE_VERSION, has_s_in | has_s_out]),
                _pack_counts([profile.latent, profile.n_fired, profile.n_first, profile.n_special]),
                _pack_counts([*map(len, lists), len(profile.logit_histogram)]),
                _pack_floats(numbers),
                _pack_counts(profile.histogram),
                _pack_counts([number for pair in profile.cofiring for number in pair]),
                _pack_counts([example.kind for example in examples]),
                _pack_counts([example.context for example in examples]),
                _pack_counts([example.position for example in examples]),
                _pack_counts([example.start for example in examples]),
                _pack_counts(lengths),
                _pack_counts(np.bincount(fired_in, minlength=len(examples)).tolist()),
                _pack_counts(offsets.tolist()),
                _pack_floats(windows[fired]),
                _pack_counts([token for token, _ in profile.promoted]),
                _pack_floats([logit for _, logit in profile.promoted]),
                _pack_counts([token for token, _ in profile.suppressed]),
                _pack_floats([logit for _, logit in profile.suppressed]),
                _pack_counts(profile.logit_histogram),
            ]
        )
    except (ValueError, OverflowError) as error:
        raise _contradiction(profile.latent) from error


def unpack_profile(payload: bytes) -> LatentProfile:
    """The profile that ``pack_profile`` was given, to the precision of float32.

    Raises:
        StorageError: the bytes are of another version, cut short, or damaged.
    """
    reader = _ProfileReader(payload)
    latent, n_fired, n_first, n_special = reader.counts(4)
    n_cofiring, n_examples, n_promoted, n_suppressed, n_bins = reader.counts(5)
    maximum, mean, *numbers = reader.floats(4 + len(QUANTILES) + 2)
    *quantiles, low, high, s_in, s_out = numbers
    histogram = reader.counts(HISTOGRAM_BINS)
    cofiring = reader.counts(2 * n_cofiring)
    kinds, contexts, positions, starts, lengths, n_fired_in = (
        reader.counts(n_examples) for _ in range(6)
    )
    offsets = reader.counts(sum(n_fired_in))
    values = reader.floats(sum(n_fired_in))
    if sum(lengths) > MOST_WINDOW_TOKENS or any(kind >= N_KINDS for kind in kinds):
        raise _unreadable_profile()
    bounds = np.cumsum([0, *lengths])
    within = np.array(offsets, dtype=np.int64)
    if (within >= np.repeat(lengths, n_fired_in)).any():
        raise _unreadable_profile()
    activations = np.zeros(bounds[-1], dtype=np.float32)
    activations[np.repeat(bounds[:-1], n_fired_in) + within] = values
    windows = [activations[start:end] for start, end in pairwise(bounds.tolist())]
    promoted = tuple(zip(reader.counts(n_promoted), reader.floats(n_promoted), strict=True))
    suppressed = tuple(zip(reader.counts(n_suppressed), reader.floats(n_suppressed), strict=True))
    logit_histogram = reader.counts(n_bins)
    reader.end()
    return LatentProfile(
        latent,
        n_fired,
        maximum,
        mean,
        tuple(quantiles),
        tuple(histogram),
        n_first,
        n_special,
        tuple(zip(cofiring[::2], cofiring[1::2], strict=True)),
        tuple(map(ProfileExample, kinds, contexts, positions, starts, windows)),
        promoted,
        suppressed,
        tuple(logit_histogram),
        (low, high),
        s_in if payload[1] & HAS_S_IN else None,
        s_out if payload[1] & HAS_S_OUT else None,
    )


class _ProfileReader:
    """Reads what ``_pack_counts`` and ``_pack_floats`` wrote, in the same order."""

    def __init__(self, payload: bytes) -> None:
        if len(payload) < 2 or payload[0] != PROFILE_VERSION:
            raise StorageError(
                "The profile of a latent was to be read, but another version of SAIF wrote it; "
                "use that version or compute the profiles again."
            )
        self._payload = payload
        self._offset = 2

    def counts(self, n: int) -> list[int]:
        width = self._payload[self._offset] if self._offset < len(self._payload) else 0
        if width not in COUNT_TYPES:
            raise _unreadable_profile()
        self._offset += 1
        counts: list[int] = self._take(COUNT_TYPES[width], n).tolist()
        # Beyond int64, neither numpy nor a database can count with them.
        if width == 8 and max(counts, default=0) >= 1 << 63:
            raise _unreadable_profile()
        return counts

    def floats(self, n: int) -> list[float]:
        floats = self._take(FLOAT_TYPE, n)
        if not np.isfinite(floats).all():
            raise _unreadable_profile()
        return floats.tolist()  # type: ignore[no-any-return]

    def end(self) -> None:
        if self._offset != len(self._payload):
            raise _unreadable_profile()

    def _take(self, kind: np.dtype[Any], n: int) -> np.ndarray:
        start = self._offset
        self._offset += n * kind.itemsize
        if self._offset > len(self._payload):
            raise _unreadable_profile()
        return np.frombuffer(self._payload, kind, n, start)


def _pack_counts(counts: Sequence[int]) -> bytes:
    """Integers from 0 to 2**63 - 1, each in as few bytes as the largest needs."""
    largest = max(counts, default=0)
    if largest >= 1 << 63 or min(counts, default=0) < 0:
        raise ValueError("out of range")
    width = next(width for width in COUNT_TYPES if largest < 1 << 8 * width)
    return bytes([width]) + np.array(counts, dtype=COUNT_TYPES[width]).tobytes()


def _pack_floats(floats: Sequence[float] | np.ndarray) -> bytes:
    with np.errstate(over="ignore"):
        array = np.asarray(floats, dtype=FLOAT_TYPE)
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array.tobytes()


def _contradiction(latent: int) -> StorageError:
    return StorageError(
        f"The profile of latent {latent} was to be stored, but it holds a number or a list that a "
        "profile cannot have; compute it again."
    )


def _unreadable_profile() -> StorageError:
    return StorageError(
        "The profile of a latent was to be read, but it is damaged; compute the profiles again."
    )


def shipped_index(sae_id: str) -> Path | None:
    """The file of the corpus index that ships with an SAE; None if none does."""
    file = SHIPPED_INDEXES / f"{sae_id}.index"
    # An SAE may be given as a path, and a path never names a shipped index.
    found = file.is_file() and file.resolve().is_relative_to(SHIPPED_INDEXES)
    return file if found else None
