"""Which latents fire on each token of a text."""

from collections.abc import Callable, Sequence

import numpy as np

from saif_core.errors import PromptPairError
from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.latents import TextReading
from saif_core.saes.latents import LatentActivations, join_rows
from saif_core.saes.loaded_sae import LoadedSae

MAX_TOKENS = 2048
N_PER_TOKEN = 20


def read_text(model: LoadedModel, sae: LoadedSae, text: str, *, chat: bool) -> TextReading:
    """The latents of a text.

    Args:
        chat: put the text through the chat template.

    Raises:
        PromptPairError: it is empty or too long.
    """
    view = model.view_prompt(text, chat=chat)
    if len(view.token_ids) > MAX_TOKENS:
        raise PromptPairError(
            f"The text has {len(view.token_ids):,} tokens; give at most {MAX_TOKENS:,}."
        )
    everywhere = [range(len(view.token_ids))]
    found, _ = read_resid(
        model, [view.token_ids], [sae.layer], everywhere, reduce=sae.encode_sparse
    )
    read = found[sae.layer][0]
    latents, maxima = [], dict[int, tuple[float, int]]()
    for at, (start, end) in enumerate(zip(read.indptr[:-1], read.indptr[1:], strict=True)):
        firing = zip(read.indices[start:end].tolist(), read.values[start:end].tolist(), strict=True)
        ordered = sorted(firing, key=lambda entry: -entry[1])
        latents.append(tuple(ordered[:N_PER_TOKEN]))
        for latent, value in ordered if at else ():
            if value > maxima.get(latent, (0.0, 0))[0]:
                maxima[latent] = (value, at)
    best = sorted(((latent, *found) for latent, found in maxima.items()), key=lambda m: -m[1])
    return TextReading(view.tokens, view.special, tuple(latents), tuple(best))


def read_activations(
    model: LoadedModel, sae: LoadedSae, latent: int, text: str, *, chat: bool
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Tokens of a text, and the activation of one latent on each.

    Raises:
        PromptPairError: the text is empty or too long.
        UnknownLatentError: there is no such latent.
    """
    sae.check_index(latent)
    view = model.view_prompt(text, chat=chat)
    if len(view.token_ids) > MAX_TOKENS:
        raise PromptPairError(
            f"The text has {len(view.token_ids):,} tokens; give at most {MAX_TOKENS:,}."
        )
    found, _ = read_resid(model, [view.token_ids], [sae.layer], [range(len(view.token_ids))])
    activations = sae.encode(found[sae.layer][0])[:, latent].tolist()
    return view.tokens, tuple(activations)


def read_texts(
    model: LoadedModel,
    sae: LoadedSae,
    texts: Sequence[str],
    *,
    chat: bool,
    step: Callable[[int, int, str], None],
) -> LatentActivations:
    """Mean activation of each latent over the tokens of each text; row j is text j.

    The first token, an attention sink, counts only where a text has no other.

    Args:
        texts: at least one.
        chat: put the texts through the chat template.
        step: told (texts read, texts in all, what is done).

    Raises:
        PromptPairError: a text is empty or too long.
    """
    sequences = [model.encode_prompt(text, chat=chat) for text in texts]
    for number, token_ids in enumerate(sequences, start=1):
        if len(token_ids) > MAX_TOKENS:
            raise PromptPairError(
                f"Text {number} has {len(token_ids):,} tokens; give at most {MAX_TOKENS:,}."
            )
    wanted = [range(min(1, len(token_ids) - 1), len(token_ids)) for token_ids in sequences]
    # Only means are kept: the activations of every token of 20,000 texts would take gigabytes.
    found, _ = read_resid(
        model,
        sequences,
        [sae.layer],
        wanted,
        on_row=lambda done, total: step(done, total, "reading the texts"),
        reduce=lambda resid: _mean_row(sae.encode_sparse(resid)),
    )
    return join_rows(found[sae.layer])


def _mean_row(activations: LatentActivations) -> LatentActivations:
    latents, place = np.unique(activations.indices, return_inverse=True)
    total = np.bincount(place, weights=activations.values, minlength=len(latents))
    return LatentActivations(
        np.array([0, len(latents)]),
        latents,
        total / activations.n_rows,
        np.zeros(1, dtype=np.int64),
        activations.d_sae,
    )
