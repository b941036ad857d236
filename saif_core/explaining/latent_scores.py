"""Input and output scores: whether a latent reads the tokens that it promotes, and writes them.

A latent that fires on a token need not make the model say it. The input score compares the tokens
it fires on with those it promotes; the output score measures what amplifying it does to the next
token.

Source: Arad et al. (arXiv 2505.20063), reconstructed. As there, 20 promoted tokens, the neutral
prompt and the threshold of the output score. The threshold of the input score and the amplification
are ours: the paper adds ten times the largest activation of any latent at the prompt, which in the
last layer is almost three times the residual stream itself and makes 99.9% of the default SAE's
latents pass.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.records.health import LEAST_DEAD_TOKENS
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import read_logits

Verdict = Literal["reads", "writes", "both", "neither"]

N_PROMOTED = 20
# Times the largest activation that the latent has on a corpus. On the default SAEs some 7% (layer
# 14), 17% (22) and 46% (29) of the latents then write.
AMPLIFICATION = 2.0
# Twenty tokens out of tens of thousands hold fewer than 1 in 1,000 tokens by chance, so one in ten
# is no accident, and leaves room for latents that fire on the words around theirs.
READS_FROM = 0.1
# The paper drops latents below this: about 60% of them, and steering succeeds far more often.
WRITES_FROM = 0.01
# On a smaller corpus the tokens a latent fires on, and its maximum, are those of a few sentences.
LEAST_VERDICT_TOKENS = LEAST_DEAD_TOKENS


def input_score(firing_tokens: Sequence[int], promoted: Collection[int]) -> float | None:
    """S_in: share of the tokens that a latent fires on most which are among those it promotes.

    Args:
        firing_tokens: token id of the largest activation in each example, repeats included.
        promoted: ids of the N_PROMOTED tokens that the latent promotes most.

    Returns:
        A share from 0 to 1, or None without examples.
    """
    if not firing_tokens:
        return None
    known = set(promoted)
    return sum(token in known for token in firing_tokens) / len(firing_tokens)


def promoted_token_ids(
    model: LoadedModel, sae: LoadedSae, latents: Sequence[int]
) -> Int[Tensor, "n k"]:
    """Ids of the N_PROMOTED tokens that each latent promotes most, best first."""
    logits = read_logits(model, sae.W_dec[list(latents)])
    return logits.topk(min(N_PROMOTED, logits.shape[-1]), dim=-1).indices


@torch.no_grad()
def output_scores(
    model: LoadedModel, sae: LoadedSae, latents: Sequence[int], maxima: Sequence[float]
) -> Float[Tensor, " n"]:
    """S_out of each latent: how much amplifying it helps the tokens that it promotes.

    At the last token of NEUTRAL_PROMPT, a latent's activation grows by AMPLIFICATION times its
    maximum. P = (1 − rank / d_vocab) · probability, with the best rank (from 0) and the best
    probability among the promoted tokens; S_out = P steered − P unsteered. Only a decoder direction
    is added, so the SAE's error stays in place.

    Args:
        maxima: the largest activation of each latent on a corpus; 0 gives the score 0.

    The prompt runs once per batch of latents: the last token passes the blocks up to the SAE's
    layer as one row, which the edit turns into one row per latent.

    Raises:
        UnknownLatentError: the SAE has no such latent.
    """
    for latent in latents:
        sae.check_index(latent)
    token_ids = model.encode_prompt(NEUTRAL_PROMPT, chat=False)
    resid = model.resid_at_end(token_ids, sae.layer)
    amounts = AMPLIFICATION * torch.tensor(maxima, device=resid.device)[:, None]
    added = amounts * sae.resid_scale(resid)
    unsteered = _next_token(model, sae.layer, token_ids, torch.zeros_like(resid)[None])
    scores = [torch.zeros(0)]
    for rows in model.logit_parts(len(latents)):
        batch = list(latents[rows])
        promoted = promoted_token_ids(model, sae, batch)
        directions = added[rows] * sae.W_dec[batch].to(added.device)
        steered = _next_token(model, sae.layer, token_ids, directions)
        before = _standing(unsteered.expand(len(batch), -1), promoted)
        scores.append((_standing(steered, promoted) - before).cpu())
    return torch.cat(scores)


def verdict(input_score: float, output_score: float) -> Verdict:
    """What a latent does with its tokens: "reads" and "writes" are scores at their thresholds."""
    reads, writes = input_score >= READS_FROM, output_score >= WRITES_FROM
    if reads and writes:
        return "both"
    return "reads" if reads else "writes" if writes else "neither"


def verdict_on(
    n_tokens: int, input_score: float | None, output_score: float | None
) -> Verdict | None:
    """The verdict of scores from a corpus; None where they or enough tokens are missing.

    Args:
        n_tokens: of the corpus.
    """
    if input_score is None or output_score is None or n_tokens < LEAST_VERDICT_TOKENS:
        return None
    return verdict(input_score, output_score)


def _next_token(
    model: LoadedModel, layer: int, token_ids: Sequence[int], added: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n d_vocab"]:
    """Next-token probabilities with each row of ``added`` added at the last token."""
    n_past = len(token_ids) - 1
    ids, positions = torch.tensor([list(token_ids)]), torch.arange(n_past + 1)[None]
    causal = torch.ones(n_past, n_past, dtype=torch.bool).tril()[None, None]
    cache: Any = model.read_tree(ids[:, :-1], positions[:, :-1], causal)
    # From here on there is one row per steered latent; below, all of them are the same.
    for block in cache.layers[layer + 1 :]:
        block.batch_repeat_interleave(len(added))
    with edit_resid(model.blocks[layer], lambda resid: resid + added[:, None].to(resid)):
        logits = model.decode_step(ids[:, -1:], positions[:, -1:], None, cache)
    return logits.softmax(dim=-1)


def _standing(
    probabilities: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """(1 − rank / d_vocab) · probability of the likeliest of each row's tokens."""
    best = probabilities.gather(1, tokens.to(probabilities.device)).amax(dim=-1)
    rank = (probabilities > best[:, None]).sum(dim=-1)
    return (1 - rank / probabilities.shape[-1]) * best
