"""LoadedModel: a Hugging Face decoder with its tokenizer; the only caller of the model.

It knows token ids and residual streams, and nothing of SAEs, pairs or steering.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from saif_core.errors import ModelError, PromptPairError
from saif_core.hook_points import capture_resid, find_blocks, find_final_norm
from saif_core.records import PromptView


class LoadedModel:
    """A model on a device, its tokenizer and the few facts that the rest of SAIF needs.

    Attributes:
        id: name it was asked for by.
        sha256: hash of its weights, or of its revision for a hub model.
        n_layers, d_model, d_vocab: its shape.
        mixed_precision: run linear layers in bfloat16 while the residual stream stays float32.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        id: str,
        sha256: str,
        mixed_precision: bool = False,
    ) -> None:
        config: Any = model.config
        self.id = id
        self.sha256 = sha256
        self.hf_model: Any = model.eval()
        self.tokenizer: Any = tokenizer
        self.n_layers = int(config.num_hidden_layers)
        self.d_model = int(config.hidden_size)
        self.d_vocab = int(config.vocab_size)
        self.mixed_precision = mixed_precision
        base_model: nn.Module = self.hf_model.base_model
        self.base_model = base_model
        self.blocks = find_blocks(self.base_model, self.n_layers)
        self.final_norm = find_final_norm(self.base_model)
        self._norm_weight: Tensor = self.final_norm.get_parameter("weight")
        self.lock_parameters()

    def lock_parameters(self) -> None:
        """Freeze the weights: SAIF never trains the model."""
        for parameter in self.hf_model.parameters():
            # Autocast keeps its bfloat16 copies only of weights that require a gradient.
            parameter.requires_grad_(self.mixed_precision)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._norm_weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._norm_weight.dtype
        return dtype

    @property
    def fingerprint(self) -> str:
        """Everything about the model that its activations depend on, for cache keys."""
        precision = "mixed" if self.mixed_precision else str(self.dtype)
        return f"{self.sha256}|{precision}"

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self.mixed_precision:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @torch.no_grad()
    def run_to_layers(
        self, token_ids: Tensor, position_ids: Tensor, mask: Tensor, layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """Residual stream after each layer; blocks above the deepest one and the head do not run.

        Args:
            token_ids: (batch, pos) token ids.
            position_ids: (batch, pos) position of each token in its own sequence.
            mask: (batch, 1, pos, pos) True where the query token may attend to the key token.
            layers: 0-based block indices.
        """
        with capture_resid(self.blocks, layers) as captured, self._precision():
            self.base_model(
                input_ids=token_ids.to(self.device),
                position_ids=position_ids.to(self.device),
                attention_mask=self._attention_masks(mask, position_ids),
                use_cache=False,
            )
        return {layer: captured[layer].float() for layer in layers}

    @torch.no_grad()
    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits (batch, pos, d_vocab) of right-padded sequences; padding comes after, unseen."""
        with self._precision():
            logits: Tensor = self.hf_model(input_ids=token_ids, use_cache=False).logits
        return logits

    @torch.no_grad()
    def decode_step(
        self, token_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, cache: Any
    ) -> Tensor:
        """Logits (batch, d_vocab) after the last token; ``cache`` grows by these tokens.

        Args:
            token_ids: (batch, pos) new tokens, left-padded on the first call.
            position_ids: (batch, pos) position of each new token in its own sequence.
            attention_mask: (batch, past + pos) 1 for real tokens.
            cache: a transformers cache, updated in place.
        """
        output = self.hf_model(
            input_ids=token_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def resid_at_end(self, token_ids: Sequence[int], layer: int) -> Tensor:
        """Residual stream (d_model,) after ``layer`` at the last token of one sequence."""
        n_tokens = len(token_ids)
        mask = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()[None, None]
        ids = torch.tensor([list(token_ids)])
        resid: Tensor = self.run_to_layers(ids, torch.arange(n_tokens)[None], mask, [layer])[layer]
        return resid[0, -1]

    @torch.no_grad()
    def unembed(self, resid: Tensor) -> Tensor:
        """Logits (…, d_vocab) of residual streams (…, d_model) through the final norm."""
        head = self.hf_model.get_output_embeddings()
        logits: Tensor = head(self.final_norm(resid.to(self.device, self.dtype))).float()
        cap = getattr(self.hf_model.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    @torch.no_grad()
    def unembed_directions(self, directions: Tensor) -> Tensor:
        """Logits (n, d_vocab) that directions (n, d_model) add, by the final norm's scale alone."""
        head = self.hf_model.get_output_embeddings()
        scale: Tensor = self._norm_weight.float()
        # Gemma stores its norm's scale as a difference from one.
        if "gemma" in self.hf_model.config.model_type:
            scale = scale + 1.0
        directions = directions.to(self.device).float()
        if isinstance(self.final_norm, nn.LayerNorm):
            directions = directions - directions.mean(dim=-1, keepdim=True)
        logits: Tensor = directions * scale @ head.weight.float().T
        return logits

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = self.hf_model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return frozenset(int(i) for i in [*listed, self.tokenizer.eos_token_id] if i is not None)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @property
    def chat_template_sha256(self) -> str:
        """Hash of the chat template, empty without one."""
        template = self.tokenizer.chat_template
        return hashlib.sha256(str(template).encode()).hexdigest() if template else ""

    def encode_prompt(self, text: str, *, chat: bool) -> list[int]:
        """Token ids of a prompt, through the chat template when asked for and present.

        Raises:
            PromptPairError: the prompt has no tokens.
        """
        if chat and self.has_chat_template:
            # The template writes its own special tokens, so the tokenizer must add none.
            ids = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )["input_ids"]
        else:
            ids = self.tokenizer(text)["input_ids"]
        ids = [int(i) for i in ids]
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        if not ids:
            raise PromptPairError("The prompt is empty; give it some text.")
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens or half a character at the end."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.rstrip("\ufffd")

    def token_text(self, token_id: int) -> str:
        """One token as text, its leading space kept."""
        text: str = self.tokenizer.decode([token_id])
        return text

    def view_prompt(self, text: str, *, chat: bool) -> PromptView:
        """The prompt as the model sees it, token by token."""
        ids = self.encode_prompt(text, chat=chat)
        special = set(self.tokenizer.all_special_ids)
        return PromptView(
            tuple(self.token_text(i) for i in ids), tuple(i in special for i in ids), tuple(ids)
        )

    def _attention_masks(self, mask: Tensor, position_ids: Tensor) -> Any:
        """The mask, or one per kind of layer where some layers see only a window of tokens."""
        kinds = set(getattr(self.hf_model.config, "layer_types", None) or ())
        if "sliding_attention" not in kinds:
            return self._attention_mask(mask)
        # The window counts positions in the sequence, not nodes of the tree.
        distance = position_ids[:, None, :, None] - position_ids[:, None, None, :]
        near = mask & (distance < self.hf_model.config.sliding_window)
        return {
            "full_attention": self._attention_mask(mask),
            "sliding_attention": self._attention_mask(near),
        }

    def _attention_mask(self, mask: Tensor) -> Tensor:
        mask = mask.to(self.device)
        if self.hf_model.config._attn_implementation == "sdpa":
            return mask
        # Eager attention adds the mask to its scores.
        lowest = torch.finfo(self.dtype).min
        return torch.zeros(mask.shape, dtype=self.dtype, device=self.device).masked_fill(
            ~mask, lowest
        )


def load_model(
    path: str | Path,
    *,
    id: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    mixed_precision: bool = False,
) -> LoadedModel:
    """Load a model folder or hub id; only safetensors weights are read.

    Raises:
        ModelError: the folder or id cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, use_safetensors=True
        )
        model = model.to(device)
    except Exception as error:  # each of tokenizers, safetensors and transformers raises its own
        raise ModelError(
            f"Model {id!r} could not be loaded; give a Hugging Face id or a folder with "
            "config.json, tokenizer files and safetensors weights."
        ) from error
    return LoadedModel(
        model,
        tokenizer,
        id=id,
        sha256=hash_weights(Path(path), model.config),
        mixed_precision=mixed_precision,
    )


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
