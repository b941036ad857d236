"""What a steering vector is made of, in latents: signed pursuit, and why encoding it misleads.

An SAE is trained on residual streams. A steering vector is none: it is far shorter, so that the
encoder's bias decides what fires, and what it takes away shows as nothing, as activations have no
sign. Signed pursuit on decoder directions and the difference of two encodings have neither fault.

Source: Mayne et al. (arXiv 2411.08790), reconstructed; the remedies are not evaluated there.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.records.ranking import ChosenLatent
from saif_core.records.vectors import Decomposition, NaiveEncoding
from saif_core.saes.loaded_sae import LoadedSae

# What float32 decoder directions leave of a vector that they explain whole.
_NOTHING_LEFT = 1e-5
_ROWS = 64


@torch.no_grad()
def pursue(
    decoder: Float[Tensor, "d_sae d_model"], vector: Float[Tensor, " d_model"], n_atoms: int
) -> Decomposition:
    """The vector as a signed sum of few decoder directions (orthogonal matching pursuit).

    Each step takes the direction with the largest |cosine| to what is left and refits all
    coefficients by least squares. It ends early when nothing is left.

    Args:
        decoder: ``W_dec``; coefficients are of its rows as they are, whatever their norm.
        vector: in the SAE's own scale.
        n_atoms: latents at most.

    Raises:
        SteeringError: the vector is zero.
    """
    whole = vector.double().cpu().numpy()
    squared_norm = float(whole @ whole)
    if squared_norm == 0:
        raise SteeringError("The vector to decompose is zero everywhere; give one that is not.")
    norms = decoder.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    chosen: list[int] = []
    explained: list[float] = []
    coefficients, left = np.zeros(0), whole
    while len(chosen) < min(n_atoms, len(decoder)):
        residual = torch.from_numpy(left).to(decoder)
        cosines = (decoder @ residual).float().abs() / norms
        cosines[chosen] = -1.0
        chosen.append(int(cosines.argmax()))
        directions = decoder[chosen].double().cpu().numpy().T
        coefficients = np.linalg.lstsq(directions, whole, rcond=None)[0]
        left = whole - directions @ coefficients
        left_share = float(left @ left) / squared_norm
        explained.append(1.0 - left_share)
        if left_share <= _NOTHING_LEFT**2:
            break
    return Decomposition(
        tuple(ChosenLatent(i, float(c)) for i, c in zip(chosen, coefficients, strict=True)),
        tuple(explained),
    )


def naive_encoding(
    sae: LoadedSae, vector: Float[Tensor, " d_model"], k: int, *, median_resid_norm: float
) -> NaiveEncoding:
    """The encoder's answer to a vector beside its answer to nothing at all.

    Args:
        vector: in the residual stream's own scale.
        k: latents compared (overlap@k).
        median_resid_norm: median norm of residual streams at the SAE's hook point, above 0.
    """
    # One by one, as some SAEs scale each input by its own norm.
    top = _top(sae.encode(vector[None])[0], k)
    top_of_zero = _top(sae.encode(torch.zeros_like(vector)[None])[0], k)
    shared = {latent.index for latent in top} & {latent.index for latent in top_of_zero}
    return NaiveEncoding(
        top,
        top_of_zero,
        overlap=len(shared) / len(top) if top else None,
        norm_share=float(vector.float().norm()) / median_resid_norm,
    )


def encoding_difference(
    sae: LoadedSae, resid: Float[Tensor, "n d_model"], vector: Float[Tensor, " d_model"]
) -> Float[Tensor, " d_sae"]:
    """Mean change of latent activations when the vector is added: mean of f(h + v) − f(h).

    Args:
        resid: residual streams that the vector would be added to, at least one.
        vector: in the residual stream's own scale.
    """
    vector = vector.to(resid)
    total = torch.zeros(sae.d_sae, dtype=torch.float64)
    for start in range(0, len(resid), _ROWS):
        rows = resid[start : start + _ROWS]
        change = sae.encode(rows + vector) - sae.encode(rows)
        total += change.double().sum(dim=0).cpu()
    return (total / len(resid)).float()


def _top(activations: Float[Tensor, " d_sae"], k: int) -> tuple[ChosenLatent, ...]:
    best = activations.topk(min(k, len(activations)))
    return tuple(
        ChosenLatent(int(i), float(v))
        for v, i in zip(best.values, best.indices, strict=True)
        if v > 0
    )
