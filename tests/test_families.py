"""Models of every family that transformers has, small and random, beside transformers itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from saif_core.errors import ModelError, PromptPairError
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.steering import UNSTEERED, GenerationRequest, Sampling
from saif_core.writing.run import generate
from tests import tiny

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 3,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
# Whatever a family needs besides.
FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "cohere": {},
    "cohere2": {"head_dim": 8},
    "exaone4": {},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "gpt2": {**GPT, "n_positions": 256},
    "gpt_neox": {},
    "gptj": {**GPT, "rotary_dim": 4},
    "granite": {"logits_scaling": 8.0},
    "helium": {"head_dim": 8},
    "llama": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "smollm3": {"no_rope_layers": [1, 1]},
    "stablelm": {},
    "starcoder2": {},
    "xglm": {"d_model": 32, "ffn_dim": 64, "attention_heads": 4, "num_layers": 2},
}
RECURRENT = {"mamba": {"state_size": 4}, "falcon_h1": {}}


def build(family: str, options: dict[str, Any]) -> LoadedModel:
    """A small model of a family with norms that do something."""
    tokenizer = tiny.build_tokenizer()
    config = AutoConfig.for_model(family, **{**SMALL, "vocab_size": len(tokenizer), **options})
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return LoadedModel(model, tokenizer, id=family, sha256=family)


@pytest.fixture(params=sorted(FAMILIES), scope="module")
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return build(request.param, FAMILIES[request.param])


def read_last(model: LoadedModel, ids: list[int]) -> torch.Tensor:
    last = model.n_layers - 1
    return model.run_sequences(torch.tensor([ids]), [len(ids)], [last])[last][0]


def test_unembedding_is_the_models_own(model: LoadedModel) -> None:
    ids = model.encode_prompt("The cat sees the house", chat=False)
    with torch.no_grad():
        logits = model.hf_model(torch.tensor([ids])).logits[0].float()
    assert torch.allclose(model.unembed(read_last(model, ids)), logits, rtol=1e-5, atol=1e-5)


def test_what_a_direction_promotes_is_what_adding_it_to_the_stream_promotes(
    model: LoadedModel,
) -> None:
    d_model = model.d_model
    generator = torch.Generator().manual_seed(1)
    # Streams of one size on which the direction stands upright, so that the norm's dividing part
    # is the same whether it is added or taken away.
    direction = torch.randn(d_model, generator=generator)
    direction -= direction.mean()
    stream = torch.randn(8, d_model, generator=generator)
    stream -= stream.mean(dim=-1, keepdim=True)
    stream -= (stream @ direction)[:, None] * direction / direction.pow(2).sum()
    stream *= (d_model**0.5) / stream.norm(dim=-1, keepdim=True)
    step = 0.01
    change = (
        model.unembed(stream + step * direction) - model.unembed(stream - step * direction)
    ) / (2 * step)
    change = change - change.mean(dim=-1, keepdim=True)
    said = model.unembed_directions(direction[None])[0]
    said = said - said.mean()
    # Soft caps bend logits a little, all other heads do not.
    assert torch.allclose(change.mean(0), said, rtol=0.02, atol=0.02 * float(said.abs().max()))


def test_greedy_texts_of_several_lengths_equal_those_of_transformers(model: LoadedModel) -> None:
    prompts = ("The cat sees", "The old dog likes the garden in the house", "A river")
    sampling = Sampling(chat=False, max_new_tokens=6)
    made = generate(model, {}, GenerationRequest(prompts, (UNSTEERED,), sampling))
    for prompt, text in zip(prompts, made.generations, strict=True):
        ids = model.encode_prompt(prompt, chat=False)
        plain = model.hf_model.generate(
            torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=3
        )
        expected = [i for i in plain[0, len(ids) :].tolist() if i not in model.end_token_ids]
        assert list(text.token_ids) == expected[: len(text.token_ids)]
        assert len(text.token_ids) == len(expected)


@pytest.mark.parametrize("family", sorted(RECURRENT))
def test_a_model_that_keeps_another_state_is_read_but_refused_for_texts(family: str) -> None:
    loaded = build(family, RECURRENT[family])
    ids = loaded.encode_prompt("The cat sees", chat=False)
    assert torch.isfinite(read_last(loaded, ids)).all()
    request = GenerationRequest(("The cat",), (UNSTEERED,), Sampling(chat=False))
    with pytest.raises(ModelError, match="keeps more than keys and values"):
        generate(loaded, {}, request)


def test_the_documents_name_every_family() -> None:
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    missing = [name for name in (*FAMILIES, *RECURRENT) if f"`{name}`" not in text]
    assert missing == []


def test_a_model_inside_a_larger_one_is_found() -> None:
    tokenizer = tiny.build_tokenizer()
    text = {**SMALL, "vocab_size": len(tokenizer), "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    from transformers import Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    larger: Any = Gemma3ForConditionalGeneration(config).eval()
    loaded = LoadedModel(larger, tokenizer, id="gemma3", sha256="gemma3")
    ids = loaded.encode_prompt("The cat sees", chat=False)
    with torch.no_grad():
        logits = larger(input_ids=torch.tensor([ids])).logits[0].float()
    assert torch.allclose(loaded.unembed(read_last(loaded, ids)), logits, rtol=1e-4, atol=1e-4)


def test_a_text_longer_than_the_model_takes_is_refused_before_it_joins_others() -> None:
    loaded = build("gpt2", FAMILIES["gpt2"])
    request = GenerationRequest(("cat " * 250,), (UNSTEERED,), Sampling(chat=False))
    with pytest.raises(PromptPairError, match=r"takes 256 at most"):
        generate(loaded, {}, request)


def test_longrope_models_stay_within_the_length_that_short_texts_are_read_at() -> None:
    loaded = build("llama", {})
    loaded.config.rope_parameters = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 64,
    }
    assert loaded.most_tokens == 64


def test_logits_that_overflow_are_an_error_and_no_text() -> None:
    loaded = build("llama", {})
    with torch.no_grad():
        loaded.hf_model.lm_head.weight[5] = float("nan")
    request = GenerationRequest(("The cat",), (UNSTEERED,), Sampling(chat=False))
    with pytest.raises(ModelError, match="Numbers overflow in the logits of model 'llama'"):
        generate(loaded, {}, request)


def test_a_residual_stream_that_overflows_is_an_error() -> None:
    loaded = build("llama", {})
    with torch.no_grad():
        loaded.blocks[1].mlp.down_proj.weight[0] = float("inf")
    with pytest.raises(ModelError, match="the residual stream after block 1"):
        read_last(loaded, loaded.encode_prompt("The cat", chat=False))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "base_model."])
def test_weights_under_other_names_are_refused(
    tmp_path: Path, tiny_model_dir: Path, prefix: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_model_dir.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (weights,) = tiny_model_dir.glob("*.safetensors")
    renamed = {f"{prefix}{name}": value for name, value in load_file(weights).items()}
    save_file(renamed, folder / weights.name, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"its files lack the weights .*random numbers"):
        load_model(folder, id="renamed")
