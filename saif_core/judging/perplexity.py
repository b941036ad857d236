"""Perplexity of a text under the unsteered model: how natural it finds what steering wrote."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
        mean = float(read_log_probs(model, resid, text).mean())
        # Beyond e^20 the figure says nothing more, and infinity cannot be stored.
        perplexities.append(float(torch.exp(torch.tensor(min(-mean, 20.0)))))
    return perplexities


def read_log_probs(model: LoadedModel, resid: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Log-probability (n,) of each token after its residual stream (n, d_model), on the CPU."""
    targets = torch.tensor(list(token_ids), device=model.device)[:, None]
    found = [
        torch.log_softmax(logits, dim=-1).gather(1, targets[rows])[:, 0].cpu()
        for rows, logits in model.unembed_parts(resid)
    ]
    return torch.cat(found)
