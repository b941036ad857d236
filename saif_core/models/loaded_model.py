"""LoadedModel: a Hugging Face decoder with its tokenizer; the only caller of the model.

It knows token ids and residual streams, and nothing of SAEs, pairs or steering.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    PreTrainedTokenizerBase,
)

from saif_core.errors import ModelError, PromptPairError
from saif_core.models.attention import attention_masks, tree_difference
from saif_core.models.hook_points import (
    capture_resid,
    find_blocks,
    find_final_norm,
    pause_for,
    serve_aside,
)
from saif_core.models.prompting import NEUTRAL_PROMPT, Prompting
from saif_core.models.unembedding import Unembedding

# Largest relative difference of the residual stream between a tree and the same tokens run alone.
_EXACT, _ROUNDED = 1e-3, 5e-2
_READ = "A text that is read"

FOUR_BIT = "4bit"

log = logging.getLogger(__name__)
T = TypeVar("T")


class LoadedModel(Prompting, Unembedding):
    """A model on a device, its tokenizer and the few facts that the rest of SAIF needs.

    Attributes:
        id: name it was asked for by.
        sha256: hash of its weights, or of its revision for a hub model.
        n_layers, d_model, d_vocab: its shape.
        mixed_precision: run linear layers in bfloat16 while the residual stream stays float32.
        device: where tokens go in; some blocks may lie elsewhere, see ``is_spread``.
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
        self.id = id
        self.sha256 = sha256
        self.hf_model: Any = model.eval()
        self.tokenizer = tokenizer
        # Models that also see or hear keep the text model's shape in a configuration of its own.
        self.config: Any = model.config.get_text_config()
        self.n_layers = int(self.config.num_hidden_layers)
        self.d_model = int(self.config.hidden_size)
        self.d_vocab = int(self.config.vocab_size)
        self.mixed_precision = mixed_precision
        self.base_model: nn.Module = _text_decoder(self.hf_model)
        self.blocks = find_blocks(self.base_model, self.n_layers)
        self.final_norm = find_final_norm(self.base_model)
        # A norm may have no weights of its own.
        weights = [*self.final_norm.parameters(), *self.blocks[-1].parameters()]
        self._some_weight: Tensor = weights[0]
        self.device = _input_device(self.hf_model, self._some_weight.device)
        self._urgent: tuple[Callable[[], bool], Callable[[], None]] | None = None
        self._neutral: dict[int, Tensor] = {}
        self.lock_parameters()

    def lock_parameters(self) -> None:
        """Keep the weights from being learned: SAIF never trains the model.

        Autocast keeps its bfloat16 copies only of weights that require a gradient, so those of a
        model that mixes precisions do; nothing ever steps along it.
        """
        for parameter in self.hf_model.parameters():
            parameter.requires_grad_(self.mixed_precision)

    @property
    def is_spread(self) -> bool:
        """Whether its blocks lie on several devices, as no single one could hold them."""
        return len(_places(self.hf_model)) > 1

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._some_weight.dtype
        return dtype

    @property
    def fingerprint(self) -> str:
        """Everything about the model that its activations depend on, for cache keys."""
        return f"{self.sha256}|{self._precision_name}"

    @property
    def _precision_name(self) -> str:
        if getattr(self.hf_model, "is_loaded_in_4bit", False):
            return FOUR_BIT
        return "mixed" if self.mixed_precision else str(self.dtype)

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
        self.check_length(int(position_ids.max()) + 1, _READ)
        return self._read(
            layers,
            input_ids=self.check_tokens(token_ids).to(self.device),
            position_ids=position_ids.to(self.device),
            attention_mask=self.attention_masks(mask, position_ids, position_ids),
        )

    @torch.no_grad()
    def run_sequences(
        self, token_ids: Tensor, lengths: Sequence[int], layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """Residual stream after each layer of whole sequences; values at padding mean nothing.

        Args:
            token_ids: (batch, pos) token ids, padded on the right with any token.
            lengths: real tokens of each sequence.
            layers: 0-based block indices.
        """
        self.check_length(max(lengths), _READ)
        self.check_tokens(token_ids)
        mask = None
        # Causal attention never sees padding on the right, and is fastest without a mask.
        if min(lengths) < token_ids.shape[1] and not self.packs_trees:
            real = torch.arange(token_ids.shape[1]) < torch.tensor(lengths)[:, None]
            mask = real.long().to(self.device)
        return self._read(layers, input_ids=token_ids.to(self.device), attention_mask=mask)

    def _read(self, layers: Sequence[int], **inputs: Any) -> dict[int, Tensor]:
        def run() -> dict[int, Tensor]:
            with capture_resid(self.blocks, layers) as captured, self._precision():
                self.base_model(**inputs, use_cache=False)
            return captured

        captured = self.pausing(run)
        for layer, resid in captured.items():
            if not torch.isfinite(resid).all():
                raise self.not_finite(f"the residual stream after block {layer}")
        return {layer: captured[layer].float() for layer in layers}

    def not_finite(self, what: str) -> ModelError:
        """What there is to say where numbers overflow.

        Args:
            what: where that was seen.
        """
        return ModelError(
            f"Numbers overflow in {what} of model {self.id!r}, which runs in "
            f"{self._precision_name.removeprefix('torch.')}; set SAIF_DTYPE to bfloat16 or float32."
        )

    @cached_property
    def most_tokens(self) -> int | None:
        """Tokens that a sequence may have; None where the model does not say."""
        limit: int | None = getattr(self.config, "max_position_embeddings", None)
        scaling = getattr(self.config, "rope_parameters", None) or {}
        if limit and scaling.get("rope_type") == "longrope":
            # Beyond this, a long text changes how the model reads the short ones beside it.
            limit = min(limit, scaling.get("original_max_position_embeddings") or limit)
        return limit or None

    def check_length(self, n_tokens: int, what: str = "A prompt and its answer") -> None:
        """Refuse a sequence that is longer than the model was made for.

        Args:
            what: the sequence, in words.

        Raises:
            PromptPairError: it is.
        """
        if self.most_tokens is not None and n_tokens > self.most_tokens:
            raise PromptPairError(
                f"{what} would have {n_tokens:,} tokens, but model {self.id!r} takes "
                f"{self.most_tokens:,} at most; shorten the text or ask for fewer tokens."
            )

    @cached_property
    def _n_embedded(self) -> int:
        return int(self.hf_model.get_input_embeddings().weight.shape[0])

    def check_tokens(self, token_ids: Tensor) -> Tensor:
        """The token ids themselves, if the model has all of them.

        On a GPU, one that it lacks would end every later pass of the process too.

        Raises:
            PromptPairError: it lacks one.
        """
        if token_ids.numel():
            least, most = int(token_ids.min()), int(token_ids.max())
            if least < 0 or most >= self._n_embedded:
                raise PromptPairError(
                    f"Token {most if most >= self._n_embedded else least:,} was to be read, but "
                    f"model {self.id!r} has the tokens 0 to {self._n_embedded - 1:,}; the text, "
                    "the index or the tokenizer belongs to another model."
                )
        return token_ids

    @cached_property
    @torch.no_grad()
    def keeps_keys(self) -> bool:
        """Whether keys and values of every layer are all that writing goes on from; tried once."""
        cache = DynamicCache()
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        try:
            self.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
        except Exception:  # each architecture refuses a plain cache in its own way
            return False
        layers: Any = cache.layers
        kept = [getattr(layer, "keys", None) for layer in layers]
        return len(kept) == self.n_layers and all(k is not None and k.ndim == 4 for k in kept)

    @contextlib.contextmanager
    def giving_way(self, waits: Callable[[], bool], serve: Callable[[], None]) -> Iterator[None]:
        """While open, reading pauses for more urgent work, in the middle of a pass if need be.

        Args:
            waits: whether there is such work; asked before every block.
            serve: does it; the pass then goes on where it was.
        """
        self._urgent = (waits, serve)
        try:
            yield
        finally:
            self._urgent = None

    def pausing(self, run: Callable[[], T]) -> T:
        """What a forward pass returns; it is paused where more urgent work waits."""
        if self._urgent is None:
            return run()
        waits, serve = self._urgent
        with pause_for(self.blocks, waits, partial(self._serve_alone, serve)):
            return run()

    def give_way(self) -> None:
        """Do more urgent work now if any waits; for what takes long outside of a pass."""
        if self._urgent is None:
            return
        waits, serve = self._urgent
        if waits():
            serve_aside(partial(self._serve_alone, serve))

    def _serve_alone(self, serve: Callable[[], None]) -> None:
        # Urgent work reads with the same model, and is not to be paused itself.
        urgent, self._urgent = self._urgent, None
        try:
            serve()
        finally:
            self._urgent = urgent

    @cached_property
    def packs_trees(self) -> bool:
        """Whether sequences packed as a prefix tree read as they do alone: tried once, briefly."""
        # An error of more urgent work is none of this model's.
        urgent, self._urgent = self._urgent, None
        try:
            difference = tree_difference(self)
        except Exception as error:  # each architecture refuses masks and positions in its own way
            difference, reason = float("inf"), f"{type(error).__name__}: {error}"
        else:
            reason = f"the residual stream differs by {difference:.1e}"
        finally:
            self._urgent = urgent
        is_exact = self._precision_name == str(torch.float32)
        trusted = difference <= (_EXACT if is_exact else _ROUNDED)
        if not trusted:
            log.warning(
                "Model %r cannot read prefix trees (%s); prompts run whole, in padded batches.",
                self.id,
                reason,
            )
        return trusted

    @torch.no_grad()
    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits (batch, pos, d_vocab) of right-padded sequences; padding comes after, unseen.

        All of them are in memory at once; ``unembed_parts`` bounds that.
        """
        with self._precision():
            logits: Tensor = self.hf_model(input_ids=token_ids, use_cache=False).logits
        return logits

    @torch.no_grad()
    def read_tree(self, token_ids: Tensor, position_ids: Tensor, mask: Tensor) -> Cache:
        """Keys and values of every token of packed rows, for texts to go on from.

        Args:
            token_ids, position_ids, mask: as for ``run_to_layers``.
        """
        self.check_length(int(position_ids.max()) + 1, _READ)
        inputs: dict[str, Any] = {"input_ids": self.check_tokens(token_ids).to(self.device)}
        if self.packs_trees:
            inputs["position_ids"] = position_ids.to(self.device)
            inputs["attention_mask"] = self.attention_masks(mask, position_ids, position_ids)

        def run() -> Cache:
            cache = DynamicCache()
            self.base_model(**inputs, past_key_values=cache, use_cache=True)
            return cache

        return self.pausing(run)

    @torch.no_grad()
    def decode_step(
        self, token_ids: Tensor, position_ids: Tensor, attention_mask: Any, cache: Cache
    ) -> Tensor:
        """Logits (batch, d_vocab) after the last token; ``cache`` takes in these tokens.

        Args:
            token_ids: (batch, pos) new tokens.
            position_ids: (batch, pos) position of each new token in its own sequence.
            attention_mask: (batch, past + pos) True for real tokens, None when all are, or what
                ``attention_masks`` makes.
            cache: a transformers cache, updated in place.
        """

        def run() -> Tensor:
            output = self.hf_model(
                input_ids=token_ids.to(self.device),
                position_ids=position_ids.to(self.device),
                attention_mask=attention_mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits: Tensor = output.logits[:, -1].float()
            return logits

        # What is recorded as a CUDA graph must hold nothing but this pass.
        recorded = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        return run() if recorded else self.pausing(run)

    def resid_at_end(self, token_ids: Sequence[int], layer: int) -> Tensor:
        """Residual stream (d_model,) after ``layer`` at the last token of one sequence."""
        ids = torch.tensor([list(token_ids)])
        resid: Tensor = self.run_sequences(ids, [len(token_ids)], [layer])[layer]
        return resid[0, -1]

    def neutral_resid(self, layer: int) -> Tensor:
        """Residual stream (d_model,) after ``layer`` at the end of a neutral prompt; read once."""
        if layer not in self._neutral:
            prompt = self.encode_prompt(NEUTRAL_PROMPT, chat=True)
            self._neutral[layer] = self.resid_at_end(prompt, layer)
        return self._neutral[layer]

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = self.hf_model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return frozenset(int(i) for i in [*listed, self.tokenizer.eos_token_id] if i is not None)

    def attention_masks(self, mask: Tensor, positions: Tensor, key_positions: Tensor) -> Any:
        """``attention.attention_masks`` of this model."""
        to = self.device
        return attention_masks(
            self.config, self.dtype, mask.to(to), positions.to(to), key_positions.to(to)
        )


def _text_decoder(hf_model: Any) -> nn.Module:
    """The stack of blocks that writes text, inside of whatever else a model has."""
    find = getattr(hf_model, "get_decoder", None)
    decoder = find() if find else None
    return decoder if isinstance(decoder, nn.Module) else hf_model.base_model


def _places(hf_model: Any) -> list[Any]:
    """Where the modules of a model lie, as far as they were told where to."""
    return list(dict.fromkeys((getattr(hf_model, "hf_device_map", None) or {}).values()))


def _input_device(hf_model: Any, otherwise: torch.device) -> torch.device:
    """Where a model takes its tokens: its first card or, without one, the CPU."""
    places = _places(hf_model)
    if len(places) < 2:
        return otherwise
    return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))
