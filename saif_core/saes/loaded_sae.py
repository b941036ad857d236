"""LoadedSae: a sae-lens SAE that was checked against the model it is used with.

It maps the residual stream to latent activations and latents to decoder directions. Weights keep
sae-lens's orientation: W_enc (d_model, d_sae), W_dec (d_sae, d_model).
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saif_core.errors import HookPointError, SaeMismatchError, check_latent
from saif_core.models.activations import read_resid
from saif_core.models.hook_points import elsewhere, hook_point_name, parse_hook_point
from saif_core.models.loaded_model import LoadedModel
from saif_core.saes.latents import LatentActivations

# Per-token input scalings that SAIF knows how to undo; "none" covers scalings folded into weights.
_NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
# Architectures whose latents each write their row of W_dec wherever they fire.
_ARCHITECTURES = ("standard", "gated", "topk", "jumprelu", "matching_pursuit")
_TRANSCODER = "a transcoder, which reads one place of the model and writes another"
_CHECKPOINT = "a checkpoint of training, to be saved anew by sae-lens's save_inference_model"
_OTHER_ARCHITECTURES = {
    "transcoder": _TRANSCODER,
    "skip_transcoder": _TRANSCODER,
    "jumprelu_transcoder": _TRANSCODER,
    "jumprelu_skip_transcoder": _TRANSCODER,
    "temporal": "a temporal SAE, whose latents at a token depend on the tokens before it",
    "abstopk": "an SAE whose latents also fire below zero, which SAIF does not count",
    "batchtopk": _CHECKPOINT,
    "matryoshka_batchtopk": _CHECKPOINT,
}
WEIGHTS_FILE = "sae_weights.safetensors"
WORST_FVU = 0.6
# Tokens whose residual norm is this many times the median are attention sinks.
SINK_NORM_RATIO = 5.0
_CHECK_TEXTS = (
    "The committee will meet on Thursday to discuss the new budget for the school library.",
    "Water boils at a lower temperature in the mountains because the air pressure is lower.",
    "She opened the old box, found a letter from her grandmother, and began to read it aloud.",
    "To restart the server, stop the service first, then clear the cache and start it again.",
)
_ALIASES = {"gpt2-small": "gpt2", "mistral-7b": "mistral-7b-v0.1"}
_ROUNDING = 1e-3
_LFS_POINTER = b"version https://git-lfs"
log = logging.getLogger(__name__)


class LoadedSae:
    """An SAE at one hook point of one model.

    Attributes:
        id: name it was asked for by.
        sha256: hash of its weights and configuration.
        layer, hook_point: where it reads and writes.
        d_sae: number of latents.
        W_dec: decoder directions (d_sae, d_model): what one unit of each latent writes.
        fvu: fraction of variance unexplained on a few sentences, measured when it was loaded.
        warning: what speaks against it although it fits, in a sentence; "" if nothing does.
    """

    def __init__(self, sae: Any, *, id: str, model: LoadedModel) -> None:
        self.id = id
        self.sae = sae.eval()
        self.layer = check_fits(sae, id, model)
        self.hook_point = hook_point_name(self.layer)
        self.d_sae = int(sae.cfg.d_sae)
        self.normalisation: str = sae.cfg.normalize_activations
        options = sae.cfg.metadata.model_from_pretrained_kwargs or {}
        # TransformerLens may take the mean over d_model out of all that a model writes.
        self._centred = bool(options.get("center_writing_weights"))
        self._mean: Tensor | None = None
        self.W_dec: Tensor = written_directions(sae)
        self.sha256 = _hash_weights(sae)
        for parameter in sae.parameters():
            parameter.requires_grad_(False)
        self.fvu = self._check_reconstruction(model)
        self.warning = self._compare_names(model)
        if self.warning:
            log.warning(self.warning)

    @torch.no_grad()
    def encode(self, resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_sae"]:
        """Latent activations, dense, exactly as sae-lens computes them."""
        resid = resid.to(self.W_dec.device, self.W_dec.dtype)
        if self._centred:
            self._mean = resid.mean(dim=-1, keepdim=True)
            resid = resid - self._mean
        encoded: Tensor = self.sae.encode(resid)
        return encoded

    @torch.no_grad()
    def decode(self, activations: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_model"]:
        """Reconstructed residual stream; only right after ``encode`` of the same rows."""
        decoded: Tensor = self.sae.decode(activations)
        return decoded if self._mean is None else decoded + self._mean

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
        resid = without_sinks(torch.cat(found[self.layer]))
        fvu = unexplained_variance(resid, self.decode(self.encode(resid)))
        if not fvu <= WORST_FVU:
            raise SaeMismatchError(
                f"SAE {self.id!r} leaves {fvu:.0%} of the variance of model {model.id!r} at "
                f"{self.hook_point} unexplained (at most {WORST_FVU:.0%} is accepted), so it was "
                "most likely trained on another model or layer; choose an SAE for this model."
            )
        return fvu

    def _compare_names(self, model: LoadedModel) -> str:
        named = str(self.sae.cfg.metadata.model_name or "")
        if not named or model_name(named) == model_name(model.id):
            return ""
        return (
            f"SAE {self.id!r} was trained on model {named!r}, and the model in use is "
            f"{model.id!r}: shapes fit and {self.fvu:.0%} of the variance is unexplained, so it is "
            "used, but its latents may mean something else here."
        )


def unexplained_variance(
    resid: Float[Tensor, "n d_model"], reconstruction: Float[Tensor, "n d_model"]
) -> float:
    """FVU: squared error over the variance around the mean; 0 is perfect."""
    resid, reconstruction = resid.double(), reconstruction.to(resid.device).double()
    error = (resid - reconstruction).pow(2).sum()
    return float(error / (resid - resid.mean(0)).pow(2).sum())


def check_fits(sae: Any, id: str, model: LoadedModel) -> int:
    """Layer of an SAE whose architecture, shape and hook point fit the model.

    Raises:
        SaeMismatchError: they do not, or its input scaling cannot be undone.
        HookPointError: the hook point is not supported.
    """
    config = sae.cfg
    check_supported(why_not_architecture(config.architecture()), id)
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
    if config.normalize_activations not in _NORMALISATIONS:
        raise SaeMismatchError(
            f"SAE {id!r} scales its input by {config.normalize_activations!r}, which is not folded "
            f"into its weights; fold it, or choose one of: {', '.join(_NORMALISATIONS)}."
        )
    return layer


def why_not_architecture(architecture: str) -> str:
    """Why SAIF cannot use SAEs of an architecture, in a sentence; "" if it can, or for no name."""
    if not architecture or architecture in _ARCHITECTURES:
        return ""
    unknown = f"of the architecture {architecture!r}, which SAIF does not know"
    what = _OTHER_ARCHITECTURES.get(architecture, unknown)
    return f"It is {what}; choose an SAE of the residual stream after a block."


def why_not_hook_point(name: str) -> str:
    """Why SAIF cannot use SAEs of a hook point, in a sentence; "" if it can."""
    if not name:
        return "Its hook point is not known before it is loaded; download it and give its folder."
    place = elsewhere(name)
    if not place:
        return ""
    return f"It reads {place}; choose an SAE of the residual stream after a block."


def model_name(id: str) -> str:
    """The name that a hub id, a folder or a folder of the hub's cache stands for, in lower case."""
    parts = id.rstrip("/").split("/")
    # …/models--organisation--name/snapshots/<hash>
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        parts = parts[-3].split("--")
    name = parts[-1].lower()
    return _ALIASES.get(name, name)


def check_supported(reason: str, id: str) -> None:
    """Refuse an SAE for a reason, if there is one.

    Raises:
        SaeMismatchError: there is.
    """
    if reason:
        raise SaeMismatchError(f"SAE {id!r} cannot be used: {reason[0].lower()}{reason[1:]}")


def written_directions(sae: Any) -> Tensor:
    """What one unit of each latent writes (d_sae, d_model), whatever the norm of its row."""
    rows: Tensor = sae.W_dec.detach()
    if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return rows
    norms: Tensor = rows.norm(dim=-1, keepdim=True)
    # Rows that are unit but for the rounding of half precision stay as saved recipes know them.
    is_unit = (norms - 1).abs() < _ROUNDING
    return torch.where(is_unit, rows, rows / norms.clamp_min(torch.finfo(norms.dtype).tiny))


def without_sinks(resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "m d_model"]:
    """The rows without attention sinks, which SAEs are not trained on."""
    norms = resid.float().norm(dim=-1)
    return resid[norms < SINK_NORM_RATIO * norms.median()]


def load_sae_folder(path: Path, *, id: str, model: LoadedModel) -> LoadedSae:
    """Load an SAE from a folder in sae-lens's format (cfg.json, sae_weights.safetensors).

    Raises:
        SaeMismatchError: the folder is not an SAE, or the SAE does not fit the model.
    """
    # sae-lens takes seconds to import; a page that shows no SAE should not pay for it.
    from sae_lens import SAE

    check_weights(path, id=id)
    check_supported(why_not_architecture(_saved_architecture(path)), id)
    try:
        sae = SAE.load_from_disk(str(path), device=str(model.device), dtype="float32")
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise _unreadable(id) from error
    return LoadedSae(sae, id=id, model=model)


def check_weights(path: Path, *, id: str) -> None:
    """Check that an SAE's folder has whole weights; only their header is read.

    Raises:
        SaeMismatchError: it has not.
    """
    weights = path / WEIGHTS_FILE
    try:
        with weights.open("rb") as file:
            pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
        if not pointer:
            with safe_open(weights, framework="pt"):
                return
    except SafetensorError as error:
        raise SaeMismatchError(
            f"The file {WEIGHTS_FILE} of SAE {id!r} is cut short or damaged, at "
            f"{weights.stat().st_size:,} bytes; download it again."
        ) from error
    except OSError as error:
        raise _unreadable(id) from error
    raise SaeMismatchError(
        f"The file {WEIGHTS_FILE} of SAE {id!r} is a Git LFS pointer and not the weights; get them "
        "with 'git lfs pull', or download the file again."
    )


def read_decoder(path: Path, *, id: str) -> Tensor:
    """Decoder directions (d_sae, d_model) of an SAE's folder; nothing else of it is read.

    Raises:
        SaeMismatchError: the folder is not an SAE.
    """
    check_weights(path, id=id)
    try:
        with safe_open(path / WEIGHTS_FILE, framework="pt") as weights:
            decoder: Tensor = weights.get_tensor("W_dec")
    except (OSError, SafetensorError) as error:
        raise _unreadable(id) from error
    return decoder.float()


def _saved_architecture(path: Path) -> str:
    """The architecture that a folder's cfg.json names; "" where it is for sae-lens to say."""
    try:
        return str(json.loads((path / "cfg.json").read_text(encoding="utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _unreadable(id: str) -> SaeMismatchError:
    return SaeMismatchError(
        f"{id!r} could not be read as an SAE; give a folder with cfg.json and {WEIGHTS_FILE} in "
        "sae-lens's format."
    )


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


def _hash_weights(sae: Any) -> str:
    # An SAE is the same on every device, and its notes belong to it wherever they were made.
    settings = {**sae.cfg.to_dict(), "device": "cpu"}
    digest = hashlib.sha256(repr(sorted(settings.items(), key=str)).encode())
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
