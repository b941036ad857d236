"""What is in a vector of the residual stream: its size, its latents, and what adding it changes.

A vector comes from an instruction (the mean difference of the residual stream), from a file
(``decompose.read_vector``) or from chosen latents. It knows nothing of where a vector is used.

Source: Mayne et al. (arXiv 2411.08790) for why encoding a vector misleads, see ``decompose``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import PromptPairError
from saif_core.explaining.decompose import (
    Decomposition,
    NaiveEncoding,
    encoding_difference,
    naive_encoding,
    pursue,
)
from saif_core.inputs.shipped import shipped_contents
from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import Reading, find_readings
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import promoted_tokens
from saif_core.steering.target import build_steering_vector

MOST_ATOMS = 64
MOST_CHANGES = 20
MOST_PROMPTS = 64
N_ENCODED = 20


@dataclass(frozen=True)
class LatentChange:
    """Mean change of a latent's activation when the vector is added to the residual stream."""

    index: int
    change: float


@dataclass(frozen=True)
class VectorReport:
    """A vector in the residual stream's own scale, and what is in it.

    Attributes:
        vector: d_model numbers.
        n_prompts: prompts at whose last token the residual stream was read for comparison.
        pursuit: the vector as a signed sum of decoder directions.
        fits: for the first 1, 2, … atoms the coefficients when only those are taken.
        changes: the latents that adding the vector changes most, largest first.
        naive: what encoding the vector itself would have said.
        promoted: for each latent in ``pursuit`` and ``changes`` the tokens that it promotes.
    """

    vector: tuple[float, ...]
    norm: float
    n_prompts: int
    pursuit: Decomposition
    fits: tuple[tuple[float, ...], ...]
    changes: tuple[LatentChange, ...]
    naive: NaiveEncoding
    promoted: dict[int, tuple[str, ...]]

    def first_atoms(self, k: int) -> tuple[ChosenLatent, ...]:
        """The first ``k`` atoms with the coefficients that fit the vector best."""
        atoms = self.pursuit.atoms[:k]
        return tuple(
            ChosenLatent(atom.index, coefficient)
            for atom, coefficient in zip(atoms, self.fits[len(atoms) - 1], strict=True)
        )


@torch.no_grad()
def mean_difference(
    model: LoadedModel,
    layer: int,
    request: RankingRequest,
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> Float[Tensor, " d_model"]:
    """Mean residual stream at the request's reading positions, with minus without the instruction.

    All positions weigh the same, as in a ranking.

    Raises:
        PromptPairError: there are no pairs, or the model answers every prompt with nothing.
    """
    readings, _ = find_readings(model, request, cache, step)
    # Wordings of one content share what is read without the instruction.
    distinct = list(dict.fromkeys(readings))
    found, _ = read_resid(
        model,
        [reading.token_ids for reading in distinct],
        [layer],
        [list(range(reading.start, len(reading.token_ids))) for reading in distinct],
        on_row=(lambda done, total: step(done, total, "reading")) if step else None,
        reduce=lambda resid: (resid.double().sum(dim=0).cpu(), len(resid)),
    )
    sums = dict(zip(distinct, found[layer], strict=True))
    n_pairs = len(request.pairs)
    return (_mean(readings[:n_pairs], sums) - _mean(readings[n_pairs:], sums)).float()


def _mean(
    readings: Sequence[Reading], sums: dict[Reading, tuple[Tensor, int]]
) -> Float[Tensor, " d_model"]:
    times = Counter(readings)
    n_rows = sum(n * sums[reading][1] for reading, n in times.items())
    if n_rows == 0:
        raise PromptPairError(
            "The model wrote no answer to any prompt, so there are no response tokens to read; "
            "read at the last prompt token, or use other contents."
        )
    return sum((n * sums[reading][0] for reading, n in times.items()), torch.zeros(())) / n_rows


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
    return build_steering_vector(sae, latents) * _scale(sae, resid)


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
