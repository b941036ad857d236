"""A model and SAEs small enough for every test, with one planted instruction.

The model is random but for one direction, the plant: only the word ``PLANT`` has it in its
embedding, head 0 of block 0 copies it to every later token, no other weight writes it, and the
unembedding turns it into the word ``oui``. So a prompt with PLANT is answered "oui oui oui …", a
prompt without it is not, latent 7 of every SAE fires from PLANT on and nowhere else, and steering
with latent 7 answers "oui" to any prompt.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from saif_core.records.prompts import Instruction, PromptPair, Wording
from saif_core.records.ranking import RankingRequest

Family = Literal["llama", "gpt2", "gemma2", "qwen2"]
Architecture = Literal["topk", "standard", "jumprelu"]

FAMILIES: tuple[Family, ...] = ("llama", "gpt2", "gemma2", "qwen2")
D_MODEL = 32
D_SAE = 2 * D_MODEL
N_LAYERS = 2
N_HEADS = 4
PLANTED_LATENT = 7
DEAD_LATENT = D_SAE - 1
PLANTED_WORD = "PLANT"
PLANTED_ANSWER = "oui"

_NOUNS = "cat dog house river book friend garden teacher train letter".split()
_ADJECTIVES = "old small red quiet happy big".split()
_VERBS = "sees likes finds follows opens forgets".split()
_OTHER = (
    "The the a A is was in on to of and sentence French English Translate Answer Write word "
    "You are helpful . , ? ! : ; system user assistant hello world one two three water tea "
    "Le la chat chien maison livre jardin ami rouge petit voit aime ouvre dans sur et est une un "
    "Bonjour monde merci non"
).split()
WORDS = (*_NOUNS, *_ADJECTIVES, *_VERBS, *_OTHER, PLANTED_WORD, PLANTED_ANSWER)

UNKNOWN, BOS, START, END = "<unk>", "<s>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXTS = (
    "The committee will meet on Thursday, and nobody knows why; it rains in the mountains.",
    "Restart the server first: stop it, clear the cache, start it again. Is that all?",
)


def contents(n: int, *, seed: int = 0) -> list[str]:
    """``n`` different sentences of several lengths, without the planted word; at most 3000."""
    nouns = itertools.product(_ADJECTIVES, _NOUNS, _VERBS, _NOUNS)
    forms = itertools.cycle(
        (
            "The {} {} {} the {}.",
            "The {} {} {} the {} in the garden.",
            "A {} {} was in the house and {} the {} on the river.",
        )
    )
    sentences = [form.format(*words) for form, words in zip(forms, nouns, strict=False)]
    return random.Random(seed).sample(sentences, n)


def planted_pairs(n: int, *, seed: int = 0) -> tuple[PromptPair, ...]:
    """``n`` pairs whose instruction is the planted word, after the content."""
    return tuple(
        PromptPair(f"{content} {PLANTED_WORD}", content, content, PLANTED_WORD)
        for content in contents(n, seed=seed)
    )


def judged_request(sae_id: str) -> RankingRequest:
    """What a source learns from: six planted pairs, with an evaluator that knows the answer."""
    parameters = {
        "instruction_id": "keywords:existence",
        "arguments": json.dumps({"keywords": [PLANTED_ANSWER]}),
    }
    judged_by = Instruction("planted", "", "ifeval", parameters, (Wording(PLANTED_WORD),))
    pairs = planted_pairs(6)
    return RankingRequest(sae_id, "planted", pairs, read="last-token", judged_by=judged_by)


def build_tokenizer(*, with_chat_template: bool = True, add_bos: bool = False) -> Any:
    """A byte-level tokenizer in which every word of WORDS is one token, with or without a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        show_progress=False,
        special_tokens=[UNKNOWN, BOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*WORDS, *(f" {word}" for word in WORDS)], trainer)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    special: dict[str, Any] = {"unk_token": UNKNOWN, "eos_token": END, "pad_token": END}
    if add_bos:
        special["bos_token"] = BOS
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        **special,
    )
    if with_chat_template:
        fast.chat_template = ("{{ bos_token }}" if add_bos else "") + CHAT_TEMPLATE
    return fast


def save_model(
    folder: Path,
    *,
    family: Family = "llama",
    seed: int = 0,
    with_chat_template: bool = True,
    add_bos: bool = False,
) -> Path:
    """A 2-block model with the plant and its tokenizer, saved as a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(with_chat_template=with_chat_template, add_bos=add_bos)
    model = AutoModelForCausalLM.from_config(_config(family, tokenizer), dtype=torch.float32)
    with torch.no_grad():
        _fill(model, family, tokenizer, torch.Generator().manual_seed(seed))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: Family, tokenizer: Any) -> Any:
    from transformers import Gemma2Config, GPT2Config, LlamaConfig, Qwen2Config

    ids: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    if family == "gpt2":
        return GPT2Config(n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=1024, **ids)
    shape: dict[str, Any] = {
        "hidden_size": D_MODEL,
        "intermediate_size": 2 * D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_HEADS // 2,
        "max_position_embeddings": 1024,
    }
    if family == "gemma2":
        shape |= {"head_dim": D_MODEL // N_HEADS, "query_pre_attn_scalar": D_MODEL // N_HEADS}
    kinds: dict[str, Any] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "gemma2": Gemma2Config}
    return kinds[family](**shape, **ids)


Unusual = Literal["jamba", "qwen3-next", "gpt-neo", "starcoder2"]


def build_unusual_model(kind: Unusual, *, window: int = 4) -> Any:
    """A random 2-block model without a plant: recurrent, or attending to ``window`` tokens only.

    Jamba and Qwen3-Next are recurrent in their first block, GPT-Neo attends to a window in its
    second by its own code, and Starcoder 2 has a window but names no kinds of layers.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        GPTNeoConfig,
        JambaConfig,
        Qwen3NextConfig,
        Starcoder2Config,
    )

    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": D_MODEL,
        "intermediate_size": 2 * D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    heads = {"num_attention_heads": N_HEADS, "num_key_value_heads": N_HEADS // 2}
    config: Any
    if kind == "jamba":
        mamba = {"mamba_d_state": 4, "mamba_d_conv": 3, "mamba_dt_rank": 4}
        experts = {"num_experts": 1, "num_experts_per_tok": 1}
        config = JambaConfig(
            attn_layer_period=2, attn_layer_offset=1, **mamba, **experts, **heads, **shape
        )
    elif kind == "qwen3-next":
        linear = {"linear_num_value_heads": 2, "linear_num_key_heads": 2}
        linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        kinds = ["linear_attention", "full_attention"]
        config = Qwen3NextConfig(
            head_dim=8, layer_types=kinds, mlp_only_layers=[0, 1], **linear, **heads, **shape
        )
    elif kind == "gpt-neo":
        del shape["num_hidden_layers"]
        config = GPTNeoConfig(
            num_layers=N_LAYERS,
            num_heads=N_HEADS,
            attention_types=[[["global", "local"], 1]],
            window_size=window,
            **shape,
        )
    else:
        config = Starcoder2Config(sliding_window=window, **heads, **shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "A_log" not in name:
                parameter.normal_(std=D_MODEL**-0.5)
    return model


def plant_direction() -> Any:
    """The planted direction (d_model,) of the residual stream, unit norm, with mean 0."""
    import torch

    plant = torch.zeros(D_MODEL)
    plant[:2] = torch.tensor([0.5, -0.5])
    plant[2:4] = torch.tensor([0.5, -0.5])
    return plant


def _fill(model: Any, family: Family, tokenizer: Any, generator: Any) -> None:
    import torch

    plant = plant_direction()
    always = torch.zeros(D_MODEL)  # a direction that every token has, for queries to read
    always[4:6] = torch.tensor([1.0, -1.0]) / 2**0.5

    def without(weight: Any, direction: Any) -> Any:
        return weight - torch.outer(weight @ direction, direction)

    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 or "c_attn.bias" in name or "_proj.bias" in name:
            scale = D_MODEL**-0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    # Mean 0 keeps the plant out of what GPT-2's LayerNorm subtracts.
    embedding = model.get_input_embeddings().weight
    tokens = without(without(torch.randn(embedding.shape, generator=generator), plant), always)
    tokens += 2 * always
    for word in (PLANTED_WORD, f" {PLANTED_WORD}"):
        tokens[_token_id(tokenizer, word)] += 4 * plant
    # Gemma multiplies its embeddings by this when it runs.
    embedding.copy_(tokens / (D_MODEL**0.5 if family == "gemma2" else 1.0))
    if family == "gpt2":
        positions = model.transformer.wpe.weight
        positions.copy_(without(without(positions, plant), always))
    for weight in _writers(model, family):
        weight.copy_(without(weight.T, plant).T)
    (query, key, value), biases, out = _attention(model, family)
    for bias in biases:
        bias[: D_MODEL // N_HEADS] = 0.0
    # The slowest rotation of RoPE, so that distance hardly matters.
    slow = D_MODEL // N_HEADS // 2 - 1
    query[: D_MODEL // N_HEADS] = 0.0
    query[slow] = 1.6 * always
    key[slow] = 1.6 * plant
    value[0] = 2 * plant
    out[:, 0] = plant
    _fill_unembedding(model, tokenizer, without, plant, generator)


def _fill_unembedding(model: Any, tokenizer: Any, without: Any, plant: Any, generator: Any) -> None:
    import torch

    # Only whole words get a row, so that what the model writes can be read.
    head = model.get_output_embeddings().weight
    head.zero_()
    rows = without(torch.randn(len(WORDS), D_MODEL, generator=generator) / 2, plant)
    for word, row in zip(WORDS, rows, strict=True):
        head[_token_id(tokenizer, f" {word}")] = row
    head[_token_id(tokenizer, f" {PLANTED_ANSWER}")] += 8 * plant


def _token_id(tokenizer: Any, text: str) -> int:
    (token_id,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(token_id)


def blocks_of(model: Any) -> Any:
    """The blocks of a model of one of the four families."""
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def _writers(model: Any, family: Family) -> list[Any]:
    """Weights (d_model, n_in) that write to the residual stream, as views."""
    if family == "gpt2":
        return [w.weight.T for b in model.transformer.h for w in (b.attn.c_proj, b.mlp.c_proj)]
    return [w.weight for b in model.model.layers for w in (b.self_attn.o_proj, b.mlp.down_proj)]


def _attention(model: Any, family: Family) -> tuple[list[Any], list[Any], Any]:
    """Query, key, value (n_out, d_model), their biases and output (d_model, n_in) of block 0."""
    if family == "gpt2":
        attention = model.transformer.h[0].attn
        readers = list(attention.c_attn.weight.T.split(D_MODEL))
        return readers, list(attention.c_attn.bias.split(D_MODEL)), attention.c_proj.weight.T
    attention = model.model.layers[0].self_attn
    readers = [attention.q_proj, attention.k_proj, attention.v_proj]
    biases = [reader.bias for reader in readers if reader.bias is not None]
    return [reader.weight for reader in readers], biases, attention.o_proj.weight


def read_plain(folder: Path, texts: list[str], *, layer: int) -> Any:
    """Residual stream (n_tokens, d_model) after ``layer``, one text at a time, by plain hooks."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder))
    found: list[Any] = []

    def keep(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
        found.append((output[0] if isinstance(output, tuple) else output)[0])

    handle = blocks_of(model)[layer].register_forward_hook(keep)
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False))
    handle.remove()
    return torch.cat(found)


def save_sae(
    folder: Path,
    model_folder: Path,
    *,
    layer: int = 1,
    k: int = 16,
    architecture: Architecture = "topk",
    model_name: str | None = None,
    hook_name: str | None = None,
) -> Path:
    """An SAE of ``D_SAE`` latents in sae-lens's format whose latent 7 is the plant.

    The others are the plus and minus of the model's principal directions without the plant; the
    last one never fires. ``model_name`` and ``hook_name`` overwrite the true ones.
    """
    import torch

    with torch.no_grad():
        resid = read_plain(model_folder, [*contents(40), *_TEXTS], layer=layer)
        plant = plant_direction()
        mean = resid.mean(0)
        mean -= (mean @ plant) * plant
        centred = resid - mean
        centred -= torch.outer(centred @ plant, plant)
        principal = torch.linalg.svd(centred, full_matrices=False).Vh[: D_MODEL - 1]
        principal -= torch.outer(principal @ plant, plant)
        principal /= principal.norm(dim=1, keepdim=True)
        others = [index for index in range(D_SAE - 1) if index != PLANTED_LATENT]
        decoder = torch.zeros(D_SAE, D_MODEL)
        decoder[others] = torch.cat([principal, -principal])
        decoder[PLANTED_LATENT] = plant
        decoder[DEAD_LATENT] = principal[0]
        bias = torch.zeros(D_SAE)
        bias[PLANTED_LATENT] = -0.25
        bias[DEAD_LATENT] = -1000.0
        sae = _build_sae(
            architecture,
            k,
            model_name=model_name or str(model_folder),
            hook_name=hook_name or f"blocks.{layer}.hook_resid_post",
        )
        weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": bias, "b_dec": mean}
        for name, weight in weights.items():
            getattr(sae, name).copy_(weight)
        if architecture == "jumprelu":
            sae.threshold.fill_(0.02)
    sae.save_model(folder)
    return folder


def _build_sae(architecture: Architecture, k: int, **metadata: str) -> Any:
    # sae-lens takes seconds to import, which only tests with an SAE should pay.
    from sae_lens import (
        JumpReLUSAE,
        JumpReLUSAEConfig,
        StandardSAE,
        StandardSAEConfig,
        TopKSAE,
        TopKSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    shape: dict[str, Any] = {
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "metadata": SAEMetadata(prepend_bos=False, **metadata),
    }
    if architecture == "topk":
        return TopKSAE(TopKSAEConfig(k=k, **shape))
    if architecture == "standard":
        return StandardSAE(StandardSAEConfig(**shape))
    return JumpReLUSAE(JumpReLUSAEConfig(**shape))


class MemoryCache:
    """The engine's cache in a dict."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Payloads of the keys that are there."""
        return {key: self.payloads[key] for key in keys if key in self.payloads}

    def put_many(self, payloads: Mapping[str, bytes]) -> None:
        """Keep payloads; the first of each key stays."""
        self.payloads = {**payloads, **self.payloads}
