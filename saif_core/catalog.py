"""Models and SAEs by name: the shipped default, Hugging Face ids, folders, sae-lens releases.

SAE ids: ``<model>/layer<L>`` (shipped), ``release:sae_id`` (sae-lens), or a folder in
sae-lens's format.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saif_core.errors import ModelError, SaeMismatchError, UnknownNameError
from saif_core.models.default_model import DEFAULT_MODEL, fetch_default_model
from saif_core.models.hook_points import parse_hook_point
from saif_core.models.loaded_model import FOUR_BIT, LoadedModel
from saif_core.models.loading import load_model, load_tokenizer
from saif_core.records.as_json import from_json
from saif_core.records.saes import SaeCard, SaeInfo
from saif_core.saes.loaded_sae import (
    LoadedSae,
    load_release,
    load_sae_folder,
    load_sae_release,
    read_decoder,
)

SHIPPED_SAES = Path(__file__).parent / "defaults" / "saes"
CARD_FILE = "card.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Catalog:
    """What can be loaded, and how.

    Args:
        home: folder for fetched models.
        extra_saes: SAE ids beside the shipped ones.
    """

    def __init__(self, home: Path, *, extra_saes: Sequence[str] = ()) -> None:
        self._home = home
        self._extra_saes = tuple(extra_saes)

    def saes(self, model_id: str) -> list[SaeInfo]:
        """SAEs offered for a model: the shipped ones made for it, then the extra ones."""
        # A model may be given as a path, and a path never names a shipped model.
        folders = sorted(SHIPPED_SAES.glob("*/layer*")) if SHIPPED_SAES.is_dir() else []
        shipped = [
            _describe_folder(folder, f"{model_id}/{folder.name}")
            for folder in folders
            if folder.parent.name == model_id
        ]
        return shipped + [self._describe_extra(id, model_id) for id in self._extra_saes]

    def load_model(
        self, model_id: str, *, device: str = "auto", dtype: str = "auto"
    ) -> LoadedModel:
        """Fetch (the default model) and load a model.

        Args:
            model_id: the default model's name, a Hugging Face id or a folder.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            dtype: "auto" (float32 on a CPU, bfloat16 elsewhere), "float32", "bfloat16", "float16"
                or "4bit" (weights in 4 bits, computed with as "auto").

        Raises:
            ModelError: it cannot be fetched or read.
            UnknownNameError: no such dtype.
        """
        device = resolve_device(device)
        path = fetch_default_model(self._home) if model_id == DEFAULT_MODEL else model_id
        return load_model(
            path,
            id=model_id,
            device=device,
            dtype=resolve_dtype(dtype, device),
            four_bit=dtype == FOUR_BIT,
        )

    def load_tokenizer(self, model_id: str) -> Any:
        """The tokenizer of a model, without its weights.

        Raises:
            ModelError: it cannot be fetched or read.
        """
        path = fetch_default_model(self._home) if model_id == DEFAULT_MODEL else model_id
        return load_tokenizer(path, id=model_id)

    def load_decoder(self, sae_id: str, model_id: str) -> Tensor:
        """Decoder directions (d_sae, d_model) of an SAE, on the CPU and without the model.

        Raises:
            UnknownNameError: no such SAE.
            SaeMismatchError: it cannot be read.
        """
        folder = self._sae_folder(sae_id)
        if folder is not None:
            return read_decoder(folder, id=sae_id)
        if ":" in sae_id:
            released: Tensor = load_release(sae_id, device="cpu").W_dec
            return released.detach().float()
        raise UnknownNameError("SAE", sae_id, [info.id for info in self.saes(model_id)])

    def load_sae(self, sae_id: str, model: LoadedModel) -> LoadedSae:
        """Load an SAE and check it against the model.

        Raises:
            UnknownNameError: no such SAE.
            SaeMismatchError: it does not fit the model.
        """
        folder = self._sae_folder(sae_id)
        if folder is not None:
            return load_sae_folder(folder, id=sae_id, model=model)
        if ":" in sae_id:
            return load_sae_release(sae_id, model=model)
        raise UnknownNameError("SAE", sae_id, [info.id for info in self.saes(model.id)])

    def _sae_folder(self, sae_id: str) -> Path | None:
        shipped = SHIPPED_SAES / sae_id
        if shipped.is_dir() and shipped.resolve().is_relative_to(SHIPPED_SAES):
            return shipped
        return Path(sae_id) if Path(sae_id).is_dir() else None

    def _describe_extra(self, sae_id: str, model_id: str) -> SaeInfo:
        if Path(sae_id).is_dir():
            return _describe_folder(Path(sae_id), sae_id)
        if ":" in sae_id:
            return _describe_release(sae_id, model_id)
        raise UnknownNameError("SAE", sae_id, [])


def resolve_device(device: str) -> str:
    """The device that "auto" stands for here, or the named one if this machine has it.

    Raises:
        ModelError: it has not.
    """
    if device != "auto":
        kind = device.partition(":")[0]
        missing = (kind == "cuda" and not torch.cuda.is_available()) or (
            kind == "mps" and not torch.backends.mps.is_available()
        )
        if missing or kind not in ("cpu", "cuda", "mps"):
            raise ModelError(
                f"Device {device!r} was asked for, but torch finds no such device here; choose "
                "auto, cpu, cuda, cuda:N or mps."
            )
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype that a name stands for on a device; of "4bit", the one it computes with.

    Raises:
        UnknownNameError: no such dtype.
    """
    if dtype in ("auto", FOUR_BIT):
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        raise UnknownNameError("dtype", dtype, ["auto", *_DTYPES, FOUR_BIT])
    return _DTYPES[dtype]


def _describe_folder(folder: Path, sae_id: str) -> SaeInfo:
    try:
        config: dict[str, Any] = json.loads((folder / "cfg.json").read_text())
        metadata = config.get("metadata") or {}
        hook_point = str(metadata["hook_name"])
        layer = parse_hook_point(hook_point)
        d_sae = int(config["d_sae"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaeMismatchError(
            f"{sae_id!r} could not be read as an SAE; give a folder in sae-lens's format: "
            "sae_weights.safetensors, and cfg.json with 'd_sae' and the metadata 'hook_name'."
        ) from error
    card = folder / CARD_FILE
    measured: dict[str, Any] = json.loads(card.read_text()) if card.exists() else {}
    return SaeInfo(
        id=sae_id,
        model_id=str(metadata.get("model_name") or ""),
        hook_point=hook_point,
        layer=layer,
        d_sae=d_sae,
        path=str(folder),
        dead_fraction=measured.get("dead_fraction"),
        tokens_seen=measured.get("tokens_seen"),
        sources=tuple(measured.get("sources", ())),
        cards=tuple(from_json(SaeCard, card) for card in measured.get("cards", ())),
    )


def _describe_release(sae_id: str, model_id: str) -> SaeInfo:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release, _, name = sae_id.partition(":")
    directory = get_pretrained_saes_directory()
    if release not in directory:
        raise UnknownNameError("sae-lens release", release, [])
    if name not in directory[release].saes_map:
        raise UnknownNameError(
            f"SAE in release {release}", name, sorted(directory[release].saes_map)[:10]
        )
    match = [part for part in name.split("/") if part.startswith("layer_")]
    try:
        layer = int(match[0].removeprefix("layer_"))
    except (IndexError, ValueError):
        # Releases name their layers in many ways; what is unknown is read when the SAE is loaded.
        layer = -1
    hook_point = f"blocks.{layer}.hook_resid_post" if layer >= 0 else name
    return SaeInfo(
        id=sae_id, model_id=model_id, hook_point=hook_point, layer=layer, d_sae=0, path=release
    )
