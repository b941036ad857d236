"""What is known of a latent, gathered from a store and from decoder directions; needs no model."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from app.presentation.escaping import promotes
from app.presentation.figures import counted
from saif_core.characters import REPLACEMENT, join_tokens, token_with
from saif_core.errors import SaifError, StorageError, UnknownNameError
from saif_core.inputs.shipped import shipped_index
from saif_core.records.corpus import (
    QUANTILES,
    LatentFilter,
    LatentIndex,
    LatentProfile,
    LatentSummary,
    ProfileExample,
)
from saif_core.records.descriptions import ActivatingExample, Evidence
from saif_core.records.flow import FlowGraph
from saif_core.records.latents import Neighbour, TokenChange
from saif_core.records.notes import LatentNote
from saif_core.records.ranking import ChosenLatent
from saif_core.records.saes import layers_of

if TYPE_CHECKING:  # the engine imports torch
    from saif_core.engine.engine import Engine
    from storage import Store

N_SAME, N_OTHER = 10, 5
N_OTHERS, N_DRAWN = 4, 64

TokenTexts = Callable[[Sequence[int]], list[str]]


class ExampleText(NamedTuple):
    """An example with its tokens as texts."""

    example: ProfileExample
    tokens: tuple[str, ...]

    @property
    def firing(self) -> str:
        """The token that the example is kept for."""
        return token_with(self.tokens, self.example.position - self.example.start)


class Relatives(NamedTuple):
    """Latents with alike decoder directions.

    Attributes:
        near: the most alike ones by SAE: the latent's own first, then those of the layers next to
            it.
        flow: where the direction comes from and goes to, layer by layer.
    """

    near: dict[str, tuple[Neighbour, ...]]
    flow: FlowGraph


def indexes_of(store: "Store", sae_id: str) -> list[LatentIndex]:
    """Finished indexes of an SAE, the largest first; the one that ships with it is taken in.

    Raises:
        StorageError: the database refused.
    """
    shipped = shipped_index(sae_id)
    if shipped is not None:
        store.profiles.import_index(Path(shipped).read_bytes())
    return usable_indexes(store.latents.indexes(), sae_id)


def usable_indexes(indexes: Iterable[LatentIndex], sae_id: str) -> list[LatentIndex]:
    """Those that tell of an SAE's latents, the largest corpus first, as it tells most.

    So a small corpus that someone reads takes over nobody's figures: it has to be chosen.
    """
    mine = [index for index in indexes if index.sae_id == sae_id and index.finished]
    return sorted(mine, key=lambda index: -index.n_tokens)


def corpus_words(index: LatentIndex) -> str:
    """Which corpus a figure comes from, with its tokens."""
    return f"{index.name} · {counted(index.n_tokens, 'token')}"


def choose_index(indexes: Sequence[LatentIndex], wanted: str) -> LatentIndex | None:
    """The index of an id or a name, the largest if none is named; None if there is none at all.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if not wanted:
        return indexes[0] if indexes else None
    found = next((index for index in indexes if wanted in (index.id, index.name)), None)
    if found is None:
        raise UnknownNameError("index of this SAE", wanted, [index.name for index in indexes])
    return found


def words_of_tokens(token_texts: TokenTexts, token_ids: Iterable[int]) -> dict[int, str]:
    """Texts of tokens, by id; each is decoded once."""
    ids = list(dict.fromkeys(token_ids))
    return dict(zip(ids, token_texts(ids), strict=True))


def read_examples(
    store: "Store", index: LatentIndex, profile: LatentProfile, token_texts: TokenTexts
) -> list[ExampleText]:
    """The examples of a latent with their tokens."""
    examples = profile.examples
    contexts = store.profiles.contexts(index.id, [e.context for e in examples])
    windows = [
        (example, contexts[example.context][example.start :][: len(example.activations)].tolist())
        for example in examples
        if example.context in contexts
    ]
    words = words_of_tokens(token_texts, (token for _, window in windows for token in window))
    return [
        ExampleText(one, join_tokens([words[token] for token in window])) for one, window in windows
    ]


def firing_words(texts: Sequence[ExampleText]) -> list[str]:
    """The tokens of the strongest examples, the strongest first."""
    return [text.firing for text in texts if text.example.kind == 0]


def fires_on(
    store: "Store", index: LatentIndex, latents: Sequence[int], token_texts: TokenTexts
) -> dict[int, str]:
    """The tokens that each latent fires on most in a corpus, as ``a · b · c``; "" for none."""
    found = dict.fromkeys(latents, "")
    for latent in latents:
        # Latents that the index knows nothing of have nothing to show.
        with suppress(SaifError):
            profile = store.profiles.get(index.id, latent)
            examples = read_examples(store, index, profile, token_texts)
            found[latent] = promotes(list(dict.fromkeys(firing_words(examples))))
    return found


def with_whole_tokens(
    store: "Store", index: LatentIndex, row: LatentSummary, token_texts: TokenTexts
) -> LatentSummary:
    """A line of a list; where the index holds bytes as "�", what it promotes is read anew."""
    if REPLACEMENT not in row.promotes:
        return row
    promoted = store.profiles.get(index.id, row.latent).promoted
    return replace(row, promotes=" ".join(token_texts([token for token, _ in promoted])))


def summaries_of(
    store: "Store", index: LatentIndex | None, latents: Sequence[int], token_texts: TokenTexts
) -> dict[int, LatentSummary]:
    """Lines of some latents in an index, at most 1,000, by latent; unknown ones are left out."""
    if index is None or not latents:
        return {}
    wanted = LatentFilter(latents=tuple(latents))
    rows = store.profiles.page(index.id, filters=wanted, limit=len(latents)).rows
    return {row.latent: with_whole_tokens(store, index, row, token_texts) for row in rows}


def relatives_of(engine: "Engine", sae_id: str, latent: int) -> Relatives | None:
    """Latents with alike decoder directions; None for an SAE that is of no layer here.

    Raises:
        UnknownLatentError: there is no such latent.
    """
    decoders, layers = engine.decoders, layers_of(engine.saes())
    if sae_id not in layers:
        return None
    here = layers[sae_id]
    below = max((layer for layer in layers.values() if layer < here), default=None)
    above = min((layer for layer in layers.values() if layer > here), default=None)
    near = {sae_id: decoders.neighbours(sae_id, latent, sae_id, N_SAME)}
    for layer in (below, above):
        if layer is not None:
            other = decoders.sae_of_layer(layer, sae_id)
            near[other] = decoders.neighbours(sae_id, latent, other, N_OTHER)
    return Relatives(near, decoders.flow(sae_id, latent))


def newest_label(notes: Sequence[LatentNote]) -> str:
    """The newest label among notes that are sorted so; "" if there is none."""
    return next((note.text for note in notes if note.kind == "label"), "")


def evidence_of(
    promoted: Sequence[str],
    suppressed: Sequence[str],
    texts: Sequence[ExampleText],
    change: TokenChange | None = None,
) -> Evidence:
    """What a description of a latent is made from."""
    return Evidence(
        promoted=tuple(promoted),
        suppressed=tuple(suppressed),
        raised=tuple(token for token, _ in change.promoted) if change else (),
        lowered=tuple(token for token, _ in change.suppressed) if change else (),
        examples=tuple(
            ActivatingExample(tokens, tuple(example.activations.tolist()))
            for example, tokens in texts
            if example.kind == 0
        ),
    )


def other_latents(store: "Store", index: LatentIndex, latent: int) -> tuple[ChosenLatent, ...]:
    """Other latents that fire on the corpus, each with its largest activation."""
    d_sae = index.d_sae
    # A step through the whole SAE: spread over it, and the same for a latent each time.
    step = max(d_sae // N_DRAWN, 1)
    drawn = [(latent + n * step) % d_sae for n in range(1, min(N_DRAWN, d_sae))]
    wanted = LatentFilter(latents=tuple(drawn))
    rows = store.profiles.page(index.id, filters=wanted, limit=len(drawn)).rows
    found = [row for row in rows if row.n_fired and row.latent != latent]
    return tuple(ChosenLatent(row.latent, row.maximum) for row in found[:N_OTHERS])


def corpus_data(
    index: LatentIndex, profile: LatentProfile, texts: Sequence[ExampleText]
) -> dict[str, Any]:
    """What a corpus says of a latent, as JSON-ready data."""
    n_fired = profile.n_fired
    return {
        "index": index.id,
        "name": index.name,
        "n_tokens": index.n_tokens,
        "n_fired": n_fired,
        "density": n_fired / max(index.n_tokens, 1),
        "maximum": profile.maximum,
        "mean": profile.mean,
        "quantiles": {str(q): v for q, v in zip(QUANTILES, profile.quantiles, strict=True)},
        "histogram": list(profile.histogram),
        "first_tokens": profile.n_first,
        "special_tokens": profile.n_special,
        "cofiring": [{"latent": other, "n_both": n} for other, n in profile.cofiring],
        "examples": [
            {
                "kind": example.kind,
                "tokens": list(tokens),
                "activations": example.activations.tolist(),
                "firing": example.position - example.start,
            }
            for example, tokens in texts
        ],
    }


def needs_index(index: LatentIndex | None, sae_id: str) -> LatentIndex:
    """The index itself.

    Raises:
        StorageError: there is none.
    """
    if index is None:
        raise StorageError(
            f"No corpus was read through SAE {sae_id!r}, so nothing is known of its latents as a "
            f"whole; read one with `saif index FILE --sae {sae_id}`."
        )
    return index
