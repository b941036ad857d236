"""LoadedModel against plain transformers on four families; prompts; folders that are no models."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from saif_core.errors import ModelError, PromptPairError
from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import hash_weights, load_model
from saif_core.records.steering import Schedule
from saif_core.steering.edits import Steering
from saif_core.writing.decoder import RowRequest, decode
from tests import tiny

TEXT = "The old cat sees the dog."
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def any_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny.save_model(folder, family=request.param)
    return load_model(folder, id=str(folder))


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id="tiny")


@pytest.fixture(scope="module")
def bos_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "bos", add_bos=True)
    return load_model(folder, id="bos")


def plain(model_folder: str, ids: list[int]) -> Any:
    reference: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        return reference(torch.tensor([ids])).logits[0]


def test_shape_and_dtype_are_those_of_the_folder(any_model: LoadedModel) -> None:
    config = json.loads((Path(any_model.id) / "config.json").read_text())
    assert (any_model.n_layers, any_model.d_model) == (tiny.N_LAYERS, tiny.D_MODEL)
    assert any_model.d_vocab == config["vocab_size"]
    assert any_model.dtype == torch.float32
    assert any_model.device == torch.device("cpu")
    assert not any(p.requires_grad for p in any_model.hf_model.parameters())
    assert not any_model.hf_model.training


def test_logits_of_padded_sequences_are_those_of_plain_transformers(
    any_model: LoadedModel,
) -> None:
    ids = any_model.encode_prompt(TEXT, chat=False)
    batch = torch.tensor([[*ids, 0, 0], [*ids[:4], 0, 0, *[0] * (len(ids) - 4)]])
    logits = any_model.logits(batch)
    torch.testing.assert_close(logits[0, : len(ids)], plain(any_model.id, ids), **CLOSE)
    torch.testing.assert_close(logits[1, :4], plain(any_model.id, ids[:4]), **CLOSE)


def test_left_padded_steps_with_a_cache_are_those_of_plain_transformers(
    any_model: LoadedModel,
) -> None:
    ids = any_model.encode_prompt(TEXT, chat=False)
    prompts, further = [ids, ids[:3]], [[9, 10], [11, 12]]
    width = len(ids)
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=any_model.hf_model.config)
    for step in range(3):
        logits = any_model.decode_step(tokens, positions, mask, cache)
        for row, prompt in enumerate(prompts):
            expected = plain(any_model.id, prompt + further[row][:step])[-1]
            torch.testing.assert_close(logits[row], expected, **CLOSE)
        tokens = torch.tensor([[more[step % 2]] for more in further])
        mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
        positions = positions[:, -1:] + 1


def test_unembedding_the_last_residual_stream_gives_the_logits(any_model: LoadedModel) -> None:
    ids = any_model.encode_prompt(TEXT, chat=False)
    resid = any_model.resid_at_end(ids, tiny.N_LAYERS - 1)
    torch.testing.assert_close(any_model.unembed(resid), plain(any_model.id, ids)[-1], **CLOSE)


def test_directions_are_unembedded_in_proportion_and_with_the_norms_scale(
    any_model: LoadedModel,
) -> None:
    directions = torch.stack([tiny.plant_direction(), -2 * tiny.plant_direction()])
    logits = any_model.unembed_directions(directions)
    torch.testing.assert_close(logits[1], -2 * logits[0])
    assert any_model.token_text(int(logits[0].argmax())) == f" {tiny.PLANTED_ANSWER}"
    weight = any_model.final_norm.weight
    before = weight.detach().clone()
    is_gemma = any_model.hf_model.config.model_type == "gemma2"
    with torch.no_grad():
        # Twice the scale, as each family stores it.
        weight.copy_(2 * before + 1 if is_gemma else 2 * before)
    # Asked once, as weights never change by themselves.
    vars(any_model).pop("_norm_scale")
    doubled = any_model.unembed_directions(directions)
    with torch.no_grad():
        weight.copy_(before)
    vars(any_model).pop("_norm_scale")
    torch.testing.assert_close(doubled, 2 * logits)


def test_a_direction_is_unembedded_as_the_final_norm_would(any_model: LoadedModel) -> None:
    direction = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(1)) + 2
    exact = any_model.unembed(direction)
    cap = getattr(any_model.hf_model.config, "final_logit_softcapping", None)
    if cap:
        exact = torch.atanh(exact / cap) * cap
    ours = any_model.unembed_directions(direction[None])[0]
    # The norm divides by the direction's own size, which changes all logits alike.
    torch.testing.assert_close(ours / ours.norm(), exact / exact.norm(), rtol=1e-3, atol=1e-4)


def test_mixed_precision_keeps_the_residual_stream_close_and_in_float32(
    tiny_model_dir: Path, model: LoadedModel
) -> None:
    mixed = load_model(tiny_model_dir, id="tiny", mixed_precision=True)
    ids = model.encode_prompt(TEXT, chat=True)
    exact, close = model.resid_at_end(ids, 1), mixed.resid_at_end(ids, 1)
    assert close.dtype == torch.float32
    assert not torch.equal(exact, close)
    assert (exact - close).norm() < 0.02 * exact.norm()


def test_bfloat16_models_are_read_in_float32(tiny_model_dir: Path, model: LoadedModel) -> None:
    half = load_model(tiny_model_dir, id="tiny", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    ids = model.encode_prompt(TEXT, chat=True)
    exact, close = model.resid_at_end(ids, 1), half.resid_at_end(ids, 1)
    assert close.dtype == torch.float32
    assert (exact - close).norm() < 0.05 * exact.norm()
    assert half.unembed(close).dtype == torch.float32


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"mixed_precision": True}])
def test_rounding_does_not_keep_a_model_from_reading_trees(
    options: dict[str, Any], any_model: LoadedModel
) -> None:
    assert load_model(any_model.id, id="rounded", **options).packs_trees


@pytest.fixture
def spread(tiny_model_dir: Path, tmp_path: Path) -> LoadedModel:
    """The tiny model with its second block and its head where no device has room for them."""
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "disk", "model.rotary_emb": "cpu", "lm_head": "disk"}
    hf_model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, device_map=places, offload_folder=tmp_path
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    return LoadedModel(hf_model, tokenizer, id="tiny", sha256="spread")


def test_a_model_spread_over_devices_reads_and_writes_the_same(
    spread: LoadedModel, model: LoadedModel
) -> None:
    assert spread.blocks[1].mlp.up_proj.weight.is_meta  # type: ignore[union-attr]
    assert spread.is_spread
    assert not model.is_spread
    assert spread.device == torch.device("cpu")
    prompts = [spread.encode_prompt(text, chat=True) for text in (TEXT, TEXT[::-1])]
    wanted = [[0, len(prompt) - 1] for prompt in prompts]
    for mine, other in zip(
        *(read_resid(one, prompts, [1], wanted)[0][1] for one in (spread, model)), strict=True
    ):
        torch.testing.assert_close(mine, other, **CLOSE)
    push = Steering(1, lambda resid: torch.ones_like(resid), 2.0, Schedule("all"))
    requests = [RowRequest(tuple(prompts[0]), 6, steering=steering) for steering in ((), (push,))]
    written = [[row.token_ids for row in decode(one, requests)] for one in (spread, model)]
    assert written[0] == written[1]
    direction = torch.ones(1, spread.d_model)
    torch.testing.assert_close(
        spread.unembed_directions(direction), model.unembed_directions(direction)
    )


def test_weights_in_4_bits_need_their_package(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saif_core.models.loading.find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="needs the package bitsandbytes; install it"):
        load_model(tiny_model_dir, id="tiny", four_bit=True)


def test_padding_on_the_right_changes_nothing(any_model: LoadedModel) -> None:
    ids = any_model.encode_prompt(TEXT, chat=False)
    padded = torch.tensor([[*ids, 0, 0], [*ids[:4], *[0] * (len(ids) - 2)]])
    resid = any_model.run_sequences(padded, [len(ids), 4], [0, 1])
    for layer in (0, 1):
        expected = any_model.resid_at_end(ids, layer)
        torch.testing.assert_close(resid[layer][0, len(ids) - 1], expected, **CLOSE)
        expected = any_model.resid_at_end(ids[:4], layer)
        torch.testing.assert_close(resid[layer][1, 3], expected, **CLOSE)


def test_chat_prompts_are_those_of_the_template(model: LoadedModel, tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    written = (
        "<|im_start|>system\nYou are helpful.<|im_end|>\n"
        f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.encode_prompt(TEXT, chat=True) == tokenizer(written)["input_ids"]
    assert model.encode_prompt(TEXT, chat=False) == tokenizer(TEXT)["input_ids"]


def test_models_without_a_template_read_plain_text_in_chat_mode(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "base", with_chat_template=False)
    base = load_model(folder, id="base")
    assert not base.has_chat_template
    assert base.chat_template_sha256 == ""
    assert base.encode_prompt(TEXT, chat=True) == base.encode_prompt(TEXT, chat=False)


def test_template_hash_follows_the_template(model: LoadedModel, bos_model: LoadedModel) -> None:
    assert len(model.chat_template_sha256) == 64
    assert model.chat_template_sha256 != bos_model.chat_template_sha256


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("text", [TEXT, f"<s>{TEXT}"])
def test_a_prompt_begins_with_one_bos(text: str, chat: bool, bos_model: LoadedModel) -> None:
    ids = bos_model.encode_prompt(text, chat=chat)
    bos = bos_model.tokenizer.bos_token_id
    assert ids[0] == bos
    assert ids[1] != bos


def test_prompts_without_tokens_are_refused(model: LoadedModel) -> None:
    with pytest.raises(PromptPairError, match="empty"):
        model.encode_prompt("", chat=False)


def test_decoding_leaves_out_special_tokens_and_half_characters(model: LoadedModel) -> None:
    ids = model.tokenizer("oui <|im_end|>é")["input_ids"]
    assert model.decode(ids) == "oui é"
    assert model.decode(ids[:-1]) == "oui "
    assert model.decode([]) == ""


def test_prompts_are_shown_token_by_token(model: LoadedModel) -> None:
    view = model.view_prompt("The cat", chat=True)
    assert "".join(view.tokens).endswith("The cat<|im_end|>\n<|im_start|>assistant\n")
    assert " cat" in view.tokens
    flagged = {token for token, special in zip(view.tokens, view.special, strict=True) if special}
    assert flagged == {"<|im_start|>", "<|im_end|>"}
    assert list(view.token_ids) == model.encode_prompt("The cat", chat=True)


def test_every_end_token_is_known(tiny_model_dir: Path) -> None:
    loaded = load_model(tiny_model_dir, id="tiny")
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert loaded.end_token_ids == {end}
    loaded.hf_model.generation_config.eos_token_id = [5, 9]
    assert loaded.end_token_ids == {5, 9, end}
    loaded.hf_model.generation_config.eos_token_id = None
    assert loaded.end_token_ids == {end}


def test_hash_is_of_the_weights(tiny_model_dir: Path, model: LoadedModel, tmp_path: Path) -> None:
    same = tiny.save_model(tmp_path / "same")
    other = tiny.save_model(tmp_path / "other", seed=1)
    config = model.hf_model.config
    assert hash_weights(same, config) == hash_weights(tiny_model_dir, config) == model.sha256
    assert load_model(same, id="same").sha256 == model.sha256
    assert load_model(other, id="other").sha256 != model.sha256
    assert hash_weights(Path("org/name"), config) != hash_weights(Path("org/other"), config)
    changed = copy.deepcopy(config)
    changed.rms_norm_eps = 0.5
    assert hash_weights(same, changed) != model.sha256


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'nothing' could not be loaded; give a Hugging Face id"):
        load_model(tmp_path / "nothing", id="nothing")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_incomplete_folders_are_refused(missing: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model_dir, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="'tiny' could not be loaded"):
        load_model(folder, id="tiny")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard-of"}'),
        ("config.json", b"[1, 2]"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", b"not weights"),
    ],
    ids=["broken-json", "unknown-type", "no-object", "no-tokenizer", "no-weights"],
)
def test_broken_folders_are_refused(
    file: str, content: bytes, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_model_dir, tmp_path / "model")
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="'tiny' could not be loaded"):
        load_model(folder, id="tiny")


def test_half_downloaded_weights_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model_dir, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="'tiny' could not be loaded"):
        load_model(folder, id="tiny")


def test_pickled_weights_are_never_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model_dir, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    plain_model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.save(plain_model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors weights"):
        load_model(folder, id="tiny")
