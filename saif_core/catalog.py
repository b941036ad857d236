"""Models and SAEs by name: the shipped default, Hugging Face ids, folders, sae-lens releases.

SAE ids: ``<model>/layer<L>`` (shipped), ``release:sae_id`` (sae-lens), or a folder in
sae-lens's format.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saif_core.errors import ModelError, SaeMismatchError, SaifError, UnknownNameError
from saif_core.models.default_model import DEFAULT_MODEL, fetch_default_model
from saif_core.models.hook_points import block_of
from saif_core.models.loaded_model import FOUR_BIT, LoadedModel
from saif_core.models.loading import load_model, load_tokenizer
from saif_core.records.as_json import from_json
from saif_core.records.saes import SaeCard, SaeInfo
from saif_core.saes.loaded_sae import (
    LoadedSae,
    check_weights,
    load_release,
    load_sae_folder,
    load_sae_release,
    model_name,
    read_decoder,
    why_not_architecture,
    why_not_hook_point,
)
from saif_core.saes.releases import check_published, describe_published, published_saes

SHIPPED_SAES = Path(__file__).parent / "defaults" / "saes"
CARD_FILE = "card.json"
_VARIANT = re.compile(r"-(it|pt|instruct|chat|base)$")
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
        """SAEs that can be chosen for a model: the shipped ones for it, then the extra ones."""
        return [info for info in self.offered_saes(model_id) if not info.unsupported]

    def offered_saes(self, model_id: str) -> list[SaeInfo]:
        """The same with those that cannot be used, and why: nothing that was named is left out."""
        # A model may be given as a path, and a path never names a shipped model.
        shipped = [info for info in _shipped_saes() if info.id.startswith(f"{model_id}/layer")]
        return shipped + self._described_extras()

    def known_saes(self, model_id: str | None = None) -> list[SaeInfo]:
        """All SAEs known here: shipped, extra, and those of every release of sae-lens.

        Args:
            model_id: leave out releases for models other than this one and its base, instruct
                and chat versions; None for those of every model.
        """
        published = [info for info in published_saes() if info.id not in self._extra_saes]
        if model_id is None:
            return _shipped_saes() + self._described_extras() + published
        family = _family(model_id)
        return self.offered_saes(model_id) + [
            info for info in published if _family(info.model_id) == family
        ]

    def _described_extras(self) -> list[SaeInfo]:
        return [_described(id, partial(_describe_extra, id)) for id in self._extra_saes]

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
            check_published(sae_id)
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
            check_published(sae_id)
            return load_sae_release(sae_id, model=model)
        raise UnknownNameError("SAE", sae_id, [info.id for info in self.saes(model.id)])

    def _sae_folder(self, sae_id: str) -> Path | None:
        shipped = SHIPPED_SAES / sae_id
        if shipped.is_dir() and shipped.resolve().is_relative_to(SHIPPED_SAES):
            return shipped
        return Path(sae_id) if Path(sae_id).is_dir() else None


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


def _shipped_saes() -> list[SaeInfo]:
    folders = sorted(SHIPPED_SAES.glob("*/layer*")) if SHIPPED_SAES.is_dir() else []
    ids = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return [
        _described(id, partial(_describe_folder, folder, id))
        for id, folder in zip(ids, folders, strict=True)
    ]


def _described(sae_id: str, describe: Callable[[], SaeInfo]) -> SaeInfo:
    """What describes an SAE; of one that cannot be described, the reason."""
    try:
        return describe()
    except SaifError as error:
        return SaeInfo(sae_id, "", "", None, None, sae_id, unsupported=str(error))


def _describe_extra(sae_id: str) -> SaeInfo:
    if Path(sae_id).is_dir():
        return _describe_folder(Path(sae_id), sae_id)
    if ":" in sae_id:
        return describe_published(sae_id)
    raise UnknownNameError("SAE", sae_id, [])


def _family(model_id: str) -> str:
    return _VARIANT.sub("", model_name(model_id).removeprefix("meta-"))


def _describe_folder(folder: Path, sae_id: str) -> SaeInfo:
    try:
        config: dict[str, Any] = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        # Before version 6, sae-lens kept the metadata beside the rest.
        metadata: dict[str, Any] = config.get("metadata") or config
        hook_point = str(metadata.get("hook_name") or metadata["hook_point"])
        d_sae = int(config["d_sae"])
        card = folder / CARD_FILE
        measured: dict[str, Any] = json.loads(card.read_text()) if card.exists() else {}
        cards = tuple(from_json(SaeCard, card) for card in measured.get("cards", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SaeMismatchError(
            f"{sae_id!r} could not be read as an SAE; give a folder in sae-lens's format: "
            "sae_weights.safetensors, and cfg.json with 'd_sae' and the metadata 'hook_name'."
        ) from error
    check_weights(folder, id=sae_id)
    return SaeInfo(
        id=sae_id,
        model_id=str(metadata.get("model_name") or ""),
        hook_point=hook_point,
        layer=block_of(hook_point),
        d_sae=d_sae,
        path=str(folder),
        dead_fraction=measured.get("dead_fraction"),
        tokens_seen=measured.get("tokens_seen"),
        sources=tuple(measured.get("sources", ())),
        cards=cards,
        unsupported=why_not_architecture(str(config.get("architecture") or ""))
        or why_not_hook_point(hook_point),
    )
