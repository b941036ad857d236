"""TokenChange: the planted latent raises "oui", and plain hooks give the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from saif_core.errors import PromptPairError, UnknownLatentError
from saif_core.explaining.token_change import read_token_change
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from tests import tiny


@pytest.fixture(scope="module")
def sequences(tiny_model_dir: Path) -> list[list[int]]:
    model = load_model(tiny_model_dir, id=str(tiny_model_dir))
    texts = [*tiny.contents(3), f"The cat {tiny.PLANTED_WORD} sees the dog"]
    return [model.encode_prompt(text, chat=False) for text in texts]


def load(folder: Path, sae_folder: Path) -> tuple[LoadedModel, LoadedSae]:
    model = load_model(folder, id=str(folder))
    return model, load_sae_folder(sae_folder, id="sae", model=model)


def plain_change(
    folder: Path, sae: LoadedSae, latent: int, value: float, sequences: list[list[int]]
) -> Tensor:
    """Mean logit difference by a plain hook, one latent set in the dense activations."""
    hf_model: Any = AutoModelForCausalLM.from_pretrained(str(folder))

    def set_latent(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001
        resid = output[0] if isinstance(output, tuple) else output
        activations = sae.encode(resid[0])
        changed = activations.clone()
        changed[:, latent] = value
        steered = resid + ((changed - activations) @ sae.W_dec)[None]
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def run() -> list[Tensor]:
        with torch.no_grad():
            return [hf_model(torch.tensor([ids])).logits[0] for ids in sequences]

    before = run()
    tiny.blocks_of(hf_model)[sae.layer].register_forward_hook(set_latent)
    after = run()
    return torch.cat([a - b for a, b in zip(after, before, strict=True)]).mean(0)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("latent", "value"), [(7, 10.0), (7, -10.0), (21, 4.0)])
def test_change_equals_that_of_plain_hooks(
    layer: int,
    latent: int,
    value: float,
    tiny_model_dir: Path,
    tmp_path: Path,
    sequences: list[list[int]],
) -> None:
    sae_folder = tiny.save_sae(tmp_path / "sae", tiny_model_dir, layer=layer)
    model, sae = load(tiny_model_dir, sae_folder)
    found = read_token_change(model, sae, latent, value, sequences, n=6)
    expected = plain_change(tiny_model_dir, sae, latent, value, sequences)
    for tokens, largest in ((found.promoted, True), (found.suppressed, False)):
        top = expected.topk(6, largest=largest)
        assert [change for _, change in tokens] == pytest.approx(top.values.tolist(), rel=1e-3)
    assert found.promoted[0][0] == model.token_text(int(expected.argmax()))
    assert found.suppressed[0][0] == model.token_text(int(expected.argmin()))
    assert found.n_tokens == sum(map(len, sequences))


def test_the_planted_latent_raises_its_word(
    tiny_model_dir: Path, tiny_sae_dir: Path, sequences: list[list[int]]
) -> None:
    model, sae = load(tiny_model_dir, tiny_sae_dir)
    up = read_token_change(model, sae, tiny.PLANTED_LATENT, 10.0, sequences)
    down = read_token_change(model, sae, tiny.PLANTED_LATENT, -10.0, sequences)
    assert up.promoted[0][0] == down.suppressed[0][0] == f" {tiny.PLANTED_ANSWER}"
    assert len(up.promoted) == len(up.suppressed) == 10
    assert [c for _, c in up.promoted] == sorted((c for _, c in up.promoted), reverse=True)


def test_setting_a_latent_to_what_it_is_changes_nothing(
    tiny_model_dir: Path, tiny_sae_dir: Path
) -> None:
    """The planted latent is silent without the planted word: set to 0, the delta is 0."""
    model, sae = load(tiny_model_dir, tiny_sae_dir)
    ids = model.encode_prompt(tiny.contents(1)[0], chat=False)
    found = read_token_change(model, sae, tiny.PLANTED_LATENT, 0.0, [ids], n=1)
    assert found.promoted[0][1] == pytest.approx(0.0, abs=1e-5)


def test_an_input_that_is_scaled_is_steered_in_its_own_scale(
    tiny_model_dir: Path, tiny_sae_dir: Path, sequences: list[list[int]]
) -> None:
    model, sae = load(tiny_model_dir, tiny_sae_dir)
    plain = read_token_change(model, sae, 7, 3.0, sequences[:1], n=1)
    sae.resid_scale = lambda resid: torch.full_like(resid[..., :1], 2.0)  # type: ignore[method-assign]
    scaled = read_token_change(model, sae, 7, 3.0, sequences[:1], n=1)
    sae.resid_scale = lambda resid: torch.ones_like(resid[..., :1])  # type: ignore[method-assign]
    doubled = read_token_change(model, sae, 7, 6.0, sequences[:1], n=1)
    assert scaled.promoted[0][1] == pytest.approx(doubled.promoted[0][1], rel=1e-4)
    assert scaled.promoted[0][1] > plain.promoted[0][1]


def test_unusable_requests_are_refused(tiny_model_dir: Path, tiny_sae_dir: Path) -> None:
    model, sae = load(tiny_model_dir, tiny_sae_dir)
    with pytest.raises(UnknownLatentError, match="Latent -1"):
        read_token_change(model, sae, -1, 1.0, [[5, 6]])
    for sequences in ([], [[5], []]):
        with pytest.raises(PromptPairError, match=f"on {len(sequences)} texts"):
            read_token_change(model, sae, 0, 1.0, sequences)
