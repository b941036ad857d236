"""Loads a model and its tokenizer; only safetensors weights are read."""

import hashlib
import json
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from saif_core.errors import ModelError
from saif_core.models.loaded_model import LoadedModel

# With loading info it returns two things, which its types do not say.
_from_pretrained: Any = AutoModelForCausalLM.from_pretrained
# Names that an error lists.
LISTED_WEIGHTS = 3


def load_model(
    path: str | Path,
    *,
    id: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    mixed_precision: bool = False,
    four_bit: bool = False,
) -> LoadedModel:
    """Load a model folder or hub id; only safetensors weights are read.

    Args:
        device: a torch device. "cuda" is the first card and, for a model that is larger, the
            next ones and at last the CPU's memory; "cuda:0" is the first card alone.
        four_bit: keep linear weights in 4 bits (NF4, through bitsandbytes); ``dtype`` is what
            they are computed with.

    Raises:
        ModelError: the folder or id cannot be read, or bitsandbytes is not installed.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": True,
        "device_map": "sequential" if device == "cuda" else {"": device},
    }
    if four_bit:
        if find_spec("bitsandbytes") is None:
            raise ModelError(
                f"Model {id!r} was to be kept in 4 bits, which needs the package bitsandbytes; "
                "install it, or set another dtype."
            )
        config: Any = BitsAndBytesConfig
        options["quantization_config"] = config(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    tokenizer = load_tokenizer(path, id=id)
    try:
        found: dict[str, Any]
        model: Any
        model, found = _from_pretrained(str(path), output_loading_info=True, **options)
    except Exception as error:  # safetensors and transformers raise their own
        raise _unreadable(id) from error
    _check_weights(found, id)
    if device == "cpu" and not four_bit:
        _lay_out_for_writing(model)
    return LoadedModel(
        model,
        tokenizer,
        id=id,
        sha256=hash_weights(Path(path), model.config),
        mixed_precision=mixed_precision,
    )


def load_tokenizer(path: str | Path, *, id: str) -> Any:
    """The tokenizer of a model folder or hub id.

    Raises:
        ModelError: the folder or id cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # tokenizers and transformers raise their own
        raise _unreadable(id) from error


def _check_weights(found: Mapping[str, Collection[Any]], id: str) -> None:
    """Refuse a model some of whose weights would be random numbers.

    Args:
        found: what transformers says of the weights that it read; tied heads are none of it.

    Raises:
        ModelError: the files lack weights of the model, or hold others.
    """
    problems = (
        ("missing_keys", "lack"),
        ("mismatched_keys", "hold in another shape"),
        ("unexpected_keys", "hold besides what it has"),
    )
    for kind, words in problems:
        names = sorted(map(str, found.get(kind) or ()))
        if names:
            more = f" and {len(names) - LISTED_WEIGHTS} more" if len(names) > LISTED_WEIGHTS else ""
            raise ModelError(
                f"Model {id!r} cannot be used: its files {words} the weights "
                f"{', '.join(names[:LISTED_WEIGHTS])}{more}, so it would run on random numbers; "
                "give the weights under the names that transformers has for this architecture."
            )


def _unreadable(id: str) -> ModelError:
    return ModelError(
        f"Model {id!r} could not be loaded; give a Hugging Face id or a folder with "
        "config.json, tokenizer files and safetensors weights."
    )


def _lay_out_for_writing(model: nn.Module) -> None:
    """Store linear weights input by input: the same numbers, read faster for one or two rows.

    Writing a text multiplies single tokens with every weight; products with many tokens take as
    long either way.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            module.weight.data = module.weight.data.t().contiguous().t()


def hash_weights(path: Path, config: Any) -> str:
    """SHA-256 over configuration and safetensors files of a folder, or id and commit of the hub."""
    # Where the model lies and who wrote the file say nothing of what it computes.
    place = ("_name_or_path", "transformers_version", "dtype")
    settings = {k: v for k, v in config.to_dict().items() if k not in place}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not files:
        digest.update(f"{path}@{getattr(config, '_commit_hash', None)}".encode())
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
