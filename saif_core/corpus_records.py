"""Latent activations of a corpus: plain records, and the bytes that sparse activations are kept as.

Sparse activations are rows of tokens (CSR): how many latents fire on each token, which, and how
much. Nothing here knows a model or a database.
"""

from dataclasses import dataclass, field

import numpy as np

from saif_core.errors import StorageError
from saif_core.records import new_id, utc_now

PAYLOAD_VERSION = 1
WIDE_COUNTS, WIDE_INDICES = 1, 2
HEADER_BYTES = 10
SMALLEST_HALF = np.finfo(np.float16).smallest_subnormal


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
class LatentExample:
    """A token on which a latent fires, in its context.

    Attributes:
        position: of the token in its context.
        token_ids: (n_tokens,) uint32, the whole context.
        activations: (n_tokens,) float32, of this latent on every token of the context.
    """

    context_id: int
    position: int
    activation: float
    document: str
    token_ids: np.ndarray
    activations: np.ndarray


@dataclass(frozen=True)
class LatentIndex:
    """What is known of a corpus that was read through one SAE.

    Attributes:
        n_contexts, n_tokens, n_nonzero: what was added so far.
        n_listed: contexts that the lists of largest activations and the density take in.
        finished: nothing can be added any more.
    """

    name: str
    model_sha256: str
    sae_sha256: str
    d_sae: int
    hook_point: str = ""
    n_contexts: int = 0
    n_tokens: int = 0
    n_nonzero: int = 0
    n_listed: int = 0
    finished: bool = False
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
