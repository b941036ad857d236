"""What steering did to each token: its log-probability in the arm against the unsteered model.

Both distributions are read after the fact, over the finished text.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.models.activations import read_resid
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.texts import TokenDivergence
from saif_core.steering.edits import Steering, add_deltas
from saif_core.writing.decoder import Row


def read_changes(
    model: LoadedModel, rows: Sequence[Row], plain_prompts: Sequence[Sequence[int]]
) -> list[tuple[TokenDivergence, ...]]:
    """For each token of each text: log-probability, its change, and the KL divergence.

    Args:
        rows: finished texts.
        plain_prompts: what the unsteered model sees before each text.
    """
    texts = [row.token_ids for row in rows]
    plain = _resid_before_tokens(model, plain_prompts, texts)
    return [
        _changes(model, row, unsteered, *_steered_resid(model, row))
        for row, unsteered in zip(rows, plain, strict=True)
    ]


def _resid_before_tokens(
    model: LoadedModel, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> list[Float[Tensor, "tokens d_model"]]:
    """Residual stream after the last block at the positions that predict each text's tokens."""
    sequences = [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
    wanted = [
        list(range(len(prompt) - 1, len(prompt) + len(text) - 1))
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    last = model.n_layers - 1
    return read_resid(model, sequences, [last], wanted)[0][last]


def _steered_resid(
    model: LoadedModel, row: Row
) -> tuple[Float[Tensor, "tokens d_model"], list[tuple[float, ...]]]:
    """The same as the arm saw it: its own prompt, and its edits at the positions they had.

    Beside it for every token how far the arm's gates were open.
    """
    prompt, last = row.request.prompt, model.n_layers - 1
    sequence = torch.tensor([[*prompt, *row.token_ids[:-1]]])
    layers: dict[int, list[Steering]] = defaultdict(list)
    for steering in row.request.steering:
        layers[steering.layer].append(steering)
    opened: list[Float[Tensor, "tokens k"]] = []

    def edit(steerings: Sequence[Steering], resid: Tensor) -> Tensor:
        changes = []
        for one in steerings:
            strengths = one.strengths(len(prompt), sequence.shape[1])
            keeps_norm = (strengths != 0) & torch.tensor(one.keep_norm)
            changes.append((one.delta, strengths, keeps_norm.to(resid.device)))
            if one.gates is not None:
                opened.append(one.gates(resid)[0, len(prompt) - 1 :].float().cpu())
        return add_deltas(resid, changes)

    with ExitStack() as hooks:
        for layer, steerings in layers.items():
            hooks.enter_context(edit_resid(model.blocks[layer], partial(edit, steerings)))
        resid = model.run_sequences(sequence, [sequence.shape[1]], [last])[last]
    n_tokens = len(row.token_ids)
    gates = torch.cat(opened, dim=-1).tolist() if opened else [()] * n_tokens
    return resid[0, len(prompt) - 1 :], [tuple(round(x, 3) for x in token) for token in gates]


def _changes(
    model: LoadedModel,
    row: Row,
    plain: Tensor,
    steered: Tensor,
    gates: Sequence[tuple[float, ...]],
) -> tuple[TokenDivergence, ...]:
    if not row.token_ids:
        return ()
    parts = [
        _compare(model, row, at, plain[at], steered[at])
        for at in model.logit_parts(len(row.token_ids), copies=2)
    ]
    kl, own, unsteered = (torch.cat(values).tolist() for values in zip(*parts, strict=True))
    return tuple(
        TokenDivergence(
            token=model.token_text(token_id),
            log_prob=unsteered[step],
            change=own[step] - unsteered[step],
            kl=kl[step],
            strength=max((s.strength_at(step) for s in row.request.steering), key=abs, default=0.0),
            gates=gates[step],
        )
        for step, token_id in enumerate(row.token_ids)
    )


def _compare(
    model: LoadedModel, row: Row, at: slice, plain: Tensor, steered: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL divergence, and the token's log-probability with and without the arm, of some tokens."""
    before = torch.log_softmax(model.unembed(plain), dim=-1)
    logits = model.unembed(steered)
    if row.request.logit_bias is not None:
        logits = logits + row.request.logit_bias
    after = torch.log_softmax(logits, dim=-1)
    kl = (after.exp() * (after - before)).sum(-1).clamp(min=0)
    ids = torch.tensor(row.token_ids[at], device=before.device)[:, None]
    return kl, after.gather(1, ids)[:, 0], before.gather(1, ids)[:, 0]
