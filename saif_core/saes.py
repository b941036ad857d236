"""LoadedSae: a sae-lens SAE that was checked against the model it is used with.

It maps the residual stream to latent activations and latents to decoder directions. Weights keep
sae-lens's orientation: W_enc (d_model, d_sae), W_dec (d_sae, d_model).
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saif_core.activations import read_resid
from saif_core.errors import HookPointError, SaeMismatchError, check_latent
from saif_core.hook_points import hook_point_name, parse_hook_point
from saif_core.latents import LatentActivations
from saif_core.models import LoadedModel

# Per-token input scalings that SAIF knows how to undo; "none" covers scalings folded into weights.
_NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
WORST_FVU = 0.6
_CHECK_TEXTS = (
    "The committee will meet on Thursday to discuss the new budget for the school library.",
    "Water boils at a lower temperature in the mountains because the air pressure is lower.",
    "She opened the old box, found a letter from her grandmother, and began to read it aloud.",
    "To restart the server, stop the service first, then clear the cache and start it again.",
)


class LoadedSae:
    """An SAE at one hook point of one model.

    Attributes:
        id: name it was asked for by.
        sha256: hash of its weights and configuration.
        layer, hook_point: where it reads and writes.
        d_sae: number of latents.
        fvu: fraction of variance unexplained on a few sentences, measured when it was loaded.
    """

    def __init__(self, sae: Any, *, id: str, model: LoadedModel) -> None:
        self.id = id
        self.sae = sae.eval()
        self.layer = check_fits(sae, id, model)
        self.hook_point = hook_point_name(self.layer)
        self.d_sae = int(sae.cfg.d_sae)
        self.normalisation: str = sae.cfg.normalize_activations
        self.W_dec: Tensor = sae.W_dec.detach()
        self.sha256 = _hash_weights(sae)
        for parameter in sae.parameters():
            parameter.requires_grad_(False)
        self.fvu = self._check_reconstruction(model)

    @torch.no_grad()
    def encode(self, resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_sae"]:
        """Latent activations, dense, exactly as sae-lens computes them."""
        encoded: Tensor = self.sae.encode(resid.to(self.W_dec.device, self.W_dec.dtype))
        return encoded

    @torch.no_grad()
    def decode(self, activations: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_model"]:
        """Reconstructed residual stream; only right after ``encode`` of the same rows."""
        decoded: Tensor = self.sae.decode(activations)
        return decoded

    def encode_sparse(self, resid: Float[Tensor, "n d_model"]) -> LatentActivations:
        """Latent activations of rows that belong to one prompt."""
        dense = self.encode(resid).float().cpu().numpy()
        rows, indices = np.nonzero(dense > 0)
        counts = np.bincount(rows, minlength=len(dense))
        return LatentActivations(
            np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]),
            indices,
            dense[rows, indices],
            np.zeros(len(dense), dtype=np.int64),
            self.d_sae,
        )

    def resid_scale(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... 1"]:
        """What a decoder direction is multiplied by to be in the residual stream's own scale."""
        if self.normalisation == "layer_norm":
            return torch.as_tensor(resid.std(dim=-1, keepdim=True))
        if self.normalisation == "constant_norm_rescale":
            norm: Tensor = resid.norm(dim=-1, keepdim=True)
            return norm / float(resid.shape[-1] ** 0.5)
        return torch.ones_like(resid[..., :1])

    def check_index(self, index: int) -> int:
        """The index itself, if the SAE has that latent.

        Raises:
            UnknownLatentError: it does not.
        """
        return check_latent(index, self.d_sae, f"SAE {self.id!r}")

    def _check_reconstruction(self, model: LoadedModel) -> float:
        sequences = [model.encode_prompt(text, chat=False) for text in _CHECK_TEXTS]
        # The first token is an attention sink that SAEs are not trained on.
        wanted = [range(1, len(sequence)) for sequence in sequences]
        found, _ = read_resid(model, sequences, [self.layer], [list(w) for w in wanted])
        resid = torch.cat(found[self.layer])
        fvu = unexplained_variance(resid, self.decode(self.encode(resid)))
        if not fvu <= WORST_FVU:
            raise SaeMismatchError(
                f"SAE {self.id!r} leaves {fvu:.0%} of the variance of model {model.id!r} at "
                f"{self.hook_point} unexplained (at most {WORST_FVU:.0%} is accepted), so it was "
                "most likely trained on another model or layer; choose an SAE for this model."
            )
        return fvu


def unexplained_variance(
    resid: Float[Tensor, "n d_model"], reconstruction: Float[Tensor, "n d_model"]
) -> float:
    """FVU: squared error over the variance around the mean; 0 is perfect."""
    resid, reconstruction = resid.double(), reconstruction.to(resid.device).double()
    error = (resid - reconstruction).pow(2).sum()
    return float(error / (resid - resid.mean(0)).pow(2).sum())


def check_fits(sae: Any, id: str, model: LoadedModel) -> int:
    """Layer of an SAE whose shape, hook point and model name fit the model.

    Raises:
        SaeMismatchError: they do not, or its input scaling cannot be undone.
        HookPointError: the hook point is not supported.
    """
    config = sae.cfg
    if int(config.d_in) != model.d_model:
        raise SaeMismatchError(
            f"SAE {id!r} reads {config.d_in} dimensions, but the residual stream of model "
            f"{model.id!r} has {model.d_model}; choose an SAE for this model."
        )
    hook_point = config.metadata.hook_name
    if not isinstance(hook_point, str):
        raise HookPointError(
            f"SAE {id!r} does not name its hook point; add 'hook_name' to the metadata in cfg.json."
        )
    layer = parse_hook_point(hook_point, model.n_layers)
    named = config.metadata.model_name
    if named and not _same_model(str(named), model.id):
        raise SaeMismatchError(
            f"SAE {id!r} was trained on model {named!r}, but the model in use is {model.id!r}; "
            "choose an SAE for this model."
        )
    if config.normalize_activations not in _NORMALISATIONS:
        raise SaeMismatchError(
            f"SAE {id!r} scales its input by {config.normalize_activations!r}, which is not folded "
            f"into its weights; fold it, or choose one of: {', '.join(_NORMALISATIONS)}."
        )
    return layer


def load_sae_folder(path: Path, *, id: str, model: LoadedModel) -> LoadedSae:
    """Load an SAE from a folder in sae-lens's format (cfg.json, sae_weights.safetensors).

    Raises:
        SaeMismatchError: the folder is not an SAE, or the SAE does not fit the model.
    """
    # sae-lens takes seconds to import; a page that shows no SAE should not pay for it.
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(str(path), device=str(model.device), dtype="float32")
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise SaeMismatchError(
            f"{id!r} could not be read as an SAE; give a folder with cfg.json and "
            "sae_weights.safetensors in sae-lens's format."
        ) from error
    return LoadedSae(sae, id=id, model=model)


def read_decoder(path: Path, *, id: str) -> Tensor:
    """Decoder directions (d_sae, d_model) of an SAE's folder; nothing else of it is read.

    Raises:
        SaeMismatchError: the folder is not an SAE.
    """
    try:
        with safe_open(path / "sae_weights.safetensors", framework="pt") as weights:
            decoder: Tensor = weights.get_tensor("W_dec")
    except (OSError, SafetensorError) as error:
        raise SaeMismatchError(
            f"{id!r} could not be read as an SAE; give a folder with cfg.json and "
            "sae_weights.safetensors in sae-lens's format."
        ) from error
    return decoder.float()


def load_sae_release(id: str, *, model: LoadedModel) -> LoadedSae:
    """Load ``release:sae_id`` through sae-lens, from its cache or the hub, for a model.

    Raises:
        SaeMismatchError: the release is unknown or out of reach, or the SAE does not fit.
    """
    return LoadedSae(load_release(id, device=str(model.device)), id=id, model=model)


def load_release(id: str, *, device: str) -> Any:
    """sae-lens's own SAE for ``release:sae_id``.

    Raises:
        SaeMismatchError: the release is unknown or out of reach.
    """
    from sae_lens import SAE

    release, _, sae_id = id.partition(":")
    try:
        loaded: Any = SAE.from_pretrained(release, sae_id, device=device)
    except Exception as error:
        raise SaeMismatchError(
            f"SAE {sae_id!r} of release {release!r} could not be loaded through sae-lens "
            f"({type(error).__name__}); check both names and that the hub can be reached."
        ) from error
    return loaded[0] if isinstance(loaded, tuple) else loaded


def _same_model(named: str, model_id: str) -> bool:
    def short(name: str) -> str:
        return name.rstrip("/").split("/")[-1].lower().removesuffix("-instruct")

    # Gemma Scope's SAEs of base models are used on their instruct versions too.
    return short(named).removesuffix("-it") == short(model_id).removesuffix("-it")


def _hash_weights(sae: Any) -> str:
    digest = hashlib.sha256(repr(sorted(sae.cfg.to_dict().items(), key=str)).encode())
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
