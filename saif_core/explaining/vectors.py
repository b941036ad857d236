"""What is in a vector of the residual stream: its size, its latents, and what adding it changes.

A vector comes from an instruction (the mean difference of the residual stream), from a file
(``finding.vector_files``) or from chosen latents. It knows nothing of where a vector is used.

Source: Mayne et al. (arXiv 2411.08790) for why encoding a vector misleads, see ``decompose``.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import PromptPairError
from saif_core.explaining.decompose import encoding_difference, naive_encoding, pursue
from saif_core.inputs.shipped import shipped_contents
from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import Edit
from saif_core.records.vectors import LatentChange, VectorReport
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import promoted_tokens
from saif_core.steering.target import build_target

MOST_ATOMS = 64
MOST_CHANGES = 20
MOST_PROMPTS = 64
N_ENCODED = 20


def comparison_prompts(request: RankingRequest | None) -> tuple[str, ...]:
    """Prompts to measure a vector against: those without the instruction, else shipped contents."""
    texts = [pair.negative for pair in request.pairs] if request else shipped_contents()
    return tuple(dict.fromkeys(texts))[:MOST_PROMPTS]


@torch.no_grad()
def read_prompt_ends(
    model: LoadedModel, layer: int, prompts: Sequence[str], *, chat: bool = True
) -> Float[Tensor, "n_prompts d_model"]:
    """Residual stream at the last token of each prompt, where steering of the answer begins.

    Raises:
        PromptPairError: a prompt is empty, or there are none.
    """
    if not prompts:
        raise PromptPairError("There are no prompts to compare with; choose at least one content.")
    sequences = [model.encode_prompt(prompt, chat=chat) for prompt in prompts]
    found, _ = read_resid(model, sequences, [layer], [[len(s) - 1] for s in sequences])
    return torch.cat(found[layer])


def steering_vector_at(
    sae: LoadedSae, latents: Sequence[ChosenLatent], resid: Float[Tensor, "n d_model"]
) -> Float[Tensor, " d_model"]:
    """The steering vector of latents, in the scale that it has at these residual streams.

    Raises:
        SteeringError: no latent was chosen, or a latent was chosen twice.
        UnknownLatentError: a latent does not exist.
    """
    edit = Edit(sae.layer, sae_id=sae.id, latents=tuple(latents))
    return build_target(edit, sae, {}, resid.shape[-1]).direction * _scale(sae, resid)


@torch.no_grad()
def explain_vector(
    model: LoadedModel,
    sae: LoadedSae,
    vector: Float[Tensor, " d_model"],
    resid: Float[Tensor, "n_prompts d_model"],
    *,
    n_atoms: int = MOST_ATOMS,
) -> VectorReport:
    """What is in a vector.

    Args:
        vector: in the residual stream's own scale.
        resid: residual streams that it is measured against and added to.
        n_atoms: latents of the signed pursuit, at most.

    Raises:
        SteeringError: the vector is zero.
    """
    own = vector.to(sae.W_dec) / _scale(sae, resid)
    pursuit = pursue(sae.W_dec, own, n_atoms)
    changes = _largest(encoding_difference(sae, resid, vector))
    naive = naive_encoding(
        sae, vector, N_ENCODED, median_resid_norm=float(resid.float().norm(dim=-1).median())
    )
    named = [atom.index for atom in pursuit.atoms] + [change.index for change in changes]
    shown = list(dict.fromkeys(named))
    return VectorReport(
        tuple(vector.float().tolist()),
        float(vector.float().norm()),
        len(resid),
        pursuit,
        _refit(sae.W_dec[[atom.index for atom in pursuit.atoms]], own),
        changes,
        naive,
        dict(zip(shown, promoted_tokens(model, sae, shown, n=3), strict=True)),
    )


def _scale(sae: LoadedSae, resid: Float[Tensor, "n d_model"]) -> float:
    # One number serves, as it changes little from token to token; 1 for most SAEs.
    return float(sae.resid_scale(resid.float()).median())


def _refit(
    directions: Float[Tensor, "n_atoms d_model"], vector: Float[Tensor, " d_model"]
) -> tuple[tuple[float, ...], ...]:
    matrix = directions.double().cpu().numpy().T
    solve = partial(np.linalg.lstsq, b=vector.double().cpu().numpy(), rcond=None)
    return tuple(tuple(solve(matrix[:, :k])[0].tolist()) for k in range(1, matrix.shape[1] + 1))


def _largest(change: Float[Tensor, " d_sae"]) -> tuple[LatentChange, ...]:
    order = change.abs().topk(min(MOST_CHANGES, len(change))).indices
    return tuple(LatentChange(int(i), float(change[i])) for i in order if change[i] != 0)
