"""TokenChange: the tokens that become likelier when one latent is set to a value.

It sees what the blocks above the SAE make of the latent, which the logit lens does not.

Source: Gur-Arieh et al. (arXiv 2501.08319), reconstructed: value ±10 on 32 chunks of text.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import PromptPairError
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.latents import TokenChange
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import strongest_tokens


@torch.no_grad()
def read_token_change(
    model: LoadedModel,
    sae: LoadedSae,
    latent: int,
    value: float,
    sequences: Sequence[Sequence[int]],
    *,
    n: int = 10,
) -> TokenChange:
    """Mean logit difference over all tokens of all sequences when a latent is set to ``value``.

    The latent is set at every position, by adding (value − activation) × decoder direction to the
    residual stream: the SAE's error stays in place.

    Args:
        value: activation that the latent is set to; a negative one turns its direction round.
        sequences: token ids of each text.
        n: promoted and suppressed tokens each.

    Raises:
        UnknownLatentError: the SAE has no such latent.
        PromptPairError: there is no sequence, or one is empty.
    """
    sae.check_index(latent)
    if not sequences or not all(sequences):
        raise PromptPairError(
            f"The effect of a latent was to be measured on {len(sequences)} texts, but there is "
            "none, or one without tokens; give texts that are not empty."
        )
    direction = sae.W_dec[latent]

    def set_latent(resid: Float[Tensor, "2 pos d_model"]) -> Float[Tensor, "2 pos d_model"]:
        steered = resid[1].float()
        missing = value - sae.encode(steered)[:, latent, None]
        added = missing * direction * sae.resid_scale(steered)
        return torch.stack([resid[0], resid[1] + added.to(resid)])

    last, n_tokens = model.n_layers - 1, sum(map(len, sequences))
    total = torch.zeros((), dtype=torch.float64)
    for sequence in sequences:
        # Unsteered and steered in one pass, so that both take the same path.
        token_ids = torch.tensor([list(sequence)] * 2)
        with edit_resid(model.blocks[sae.layer], set_latent):
            both = model.run_sequences(token_ids, [len(sequence)] * 2, [last])[last]
        for at in model.logit_parts(len(sequence), copies=2):
            unsteered, steered = model.unembed(both[:, at])
            total = total + (steered - unsteered).double().sum(dim=0).cpu()
    change = total / n_tokens
    return TokenChange(
        strongest_tokens(model, change, n, largest=True),
        strongest_tokens(model, change, n, largest=False),
        n_tokens,
    )
