"""Perplexity of a text under the unsteered model: how natural it finds what steering wrote."""

from collections.abc import Sequence

import torch

from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel


def read_perplexities(
    model: LoadedModel, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> list[float | None]:
    """Exp of the mean negative log-probability of each text after its prompt; None if empty."""
    sequences = [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
    # The residual stream at a token predicts the next one.
    wanted = [
        range(len(prompt) - 1, len(prompt) + len(text) - 1)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    last = model.n_layers - 1
    found, _ = read_resid(model, sequences, [last], [list(w) for w in wanted])
    perplexities: list[float | None] = []
    for resid, text in zip(found[last], texts, strict=True):
        if not text:
            perplexities.append(None)
            continue
        log_probs = torch.log_softmax(model.unembed(resid), dim=-1)
        targets = torch.tensor(list(text), device=log_probs.device)
        mean = float(log_probs.gather(1, targets[:, None]).mean())
        # Beyond e^20 the figure says nothing more, and infinity cannot be stored.
        perplexities.append(float(torch.exp(torch.tensor(min(-mean, 20.0)))))
    return perplexities
