"""SAEs: equal to sae-lens, checked against the model, their input scaling undone."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from saif_core.errors import HookPointError, SaeMismatchError, UnknownLatentError
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit
from saif_core.saes.loaded_sae import (
    LoadedSae,
    load_sae_folder,
    model_name,
    unexplained_variance,
    why_not_architecture,
    without_sinks,
    written_directions,
)
from saif_core.steering.target import build_target
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


METADATA = ("hook_name", "model_name", "model_from_pretrained_kwargs")


def changed_config(source: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "cfg.json").read_text())
    for key, value in changes.items():
        (config["metadata"] if key in METADATA else config)[key] = value
    (target / "cfg.json").write_text(json.dumps(config))
    return target


def test_encode_equals_sae_lens(sae: LoadedSae, tiny_sae_dir: Path) -> None:
    from sae_lens import SAE

    reference = SAE.load_from_disk(str(tiny_sae_dir), dtype="float32")
    resid = torch.randn(17, sae.W_dec.shape[1], generator=torch.Generator().manual_seed(0))
    expected = reference.encode(resid).detach()
    torch.testing.assert_close(sae.encode(resid), expected)
    torch.testing.assert_close(torch.from_numpy(sae.encode_sparse(resid).dense()), expected)
    torch.testing.assert_close(sae.decode(expected), reference.decode(expected).detach())


def test_sparse_encoding_of_no_rows_is_empty(sae: LoadedSae) -> None:
    assert sae.encode_sparse(torch.zeros(0, sae.W_dec.shape[1])).n_rows == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"hook_name": "blocks.9.hook_resid_post"}, HookPointError, "blocks 0 to 1"),
        ({"hook_name": "blocks.1.hook_mlp_out"}, HookPointError, "not supported"),
        ({"hook_name": None}, HookPointError, "does not name its hook point"),
        ({"architecture": "abstopk"}, SaeMismatchError, "fire below zero"),
        ({"architecture": "batchtopk"}, SaeMismatchError, "save_inference_model"),
        ({"architecture": "temporal"}, SaeMismatchError, "tokens before it"),
        ({"architecture": "unheard-of"}, SaeMismatchError, "'unheard-of'"),
        ({"normalize_activations": "expected_average_only_in"}, SaeMismatchError, "not folded"),
    ],
)
def test_sae_that_does_not_fit_is_refused_in_one_sentence(
    change: dict[str, object],
    error: type[Exception],
    words: str,
    tiny_sae_dir: Path,
    tmp_path: Path,
    model: LoadedModel,
) -> None:
    folder = changed_config(tiny_sae_dir, tmp_path / "sae", **change)
    with pytest.raises(error, match=words) as raised:
        load_sae_folder(folder, id="changed", model=model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("gpt2", "gpt2"),
        ("gpt2-small", "gpt2"),
        ("openai-community/gpt2", "gpt2"),
        ("/hub/models--openai-community--gpt2/snapshots/607a30d783dfa663", "gpt2"),
        ("/hub/models--gpt2/snapshots/607a30d783dfa663/", "gpt2"),
        ("mistral-7b", "mistral-7b-v0.1"),
        ("google/Gemma-2-2b-it", "gemma-2-2b-it"),
        ("/models/mine", "mine"),
    ],
)
def test_a_model_has_one_name(id: str, name: str) -> None:
    assert model_name(id) == name


@pytest.mark.parametrize("named", ["TINY-llama", "somebody/tiny-llama", ""])
def test_sae_of_the_same_model_has_no_warning(
    named: str, tiny_sae_dir: Path, tmp_path: Path, model: LoadedModel
) -> None:
    folder = changed_config(tiny_sae_dir, tmp_path / "sae", model_name=named)
    assert load_sae_folder(folder, id="same", model=model).warning == ""


def test_sae_of_another_model_that_fits_has_a_warning(
    tiny_sae_dir: Path,
    tmp_path: Path,
    model: LoadedModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = changed_config(tiny_sae_dir, tmp_path / "sae", model_name="google/base-pt")
    loaded = load_sae_folder(folder, id="changed", model=model)
    assert "was trained on model 'google/base-pt'" in loaded.warning
    assert f"{loaded.fvu:.0%} of the variance" in loaded.warning
    assert "\n" not in loaded.warning
    assert caplog.messages == [loaded.warning]


def test_sae_that_reads_before_a_block_reads_after_the_one_below(
    tiny_model_dir: Path, tmp_path: Path, model: LoadedModel
) -> None:
    below = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    folder = changed_config(below, tmp_path / "sae", hook_name="blocks.1.hook_resid_pre")
    loaded = load_sae_folder(folder, id="before", model=model)
    assert (loaded.layer, loaded.hook_point) == (0, "blocks.0.hook_resid_post")


def test_transcoder_is_refused_wherever_it_reads(tmp_path: Path, model: LoadedModel) -> None:
    from sae_lens import Transcoder, TranscoderConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post")
    config = TranscoderConfig(
        d_in=model.d_model,
        d_out=model.d_model,
        d_sae=64,
        apply_b_dec_to_input=False,
        metadata=metadata,
    )
    Transcoder(config).save_model(tmp_path / "transcoder")
    with pytest.raises(SaeMismatchError, match="it is a transcoder"):
        load_sae_folder(tmp_path / "transcoder", id="transcoder", model=model)


def test_every_architecture_of_sae_lens_is_used_or_refused_with_its_reason() -> None:
    import sae_lens.registry as registry

    known = {*registry.SAE_CLASS_REGISTRY, *registry.SAE_TRAINING_CLASS_REGISTRY}
    used = {name for name in known if not why_not_architecture(name)}
    assert used == {"standard", "gated", "topk", "jumprelu", "matching_pursuit"}
    assert not any("does not know" in why_not_architecture(name) for name in known)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize(
    "architecture", ["standard", "gated", "topk", "jumprelu", "matching_pursuit"]
)
def test_directions_are_what_a_unit_of_a_latent_writes(architecture: str, rescaled: bool) -> None:
    from sae_lens.registry import get_sae_class

    options = {"topk": {"k": 4, "rescale_acts_by_decoder_norm": rescaled}}
    sae_class, config_class = get_sae_class(architecture)
    sae = sae_class(config_class(d_in=16, d_sae=24, **options.get(architecture, {})))
    torch.manual_seed(0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(24, 16) * torch.linspace(0.2, 3, 24)[:, None])
        nothing = torch.zeros(24, 24)
        written = sae.decode(torch.eye(24)) - sae.decode(nothing)
    torch.testing.assert_close(written_directions(sae), written, rtol=1e-4, atol=1e-4)


def test_rows_that_are_unit_but_for_rounding_stay_as_they_are(sae: LoadedSae) -> None:
    sae_of_halves = copy.deepcopy(sae.sae)
    with torch.no_grad():
        sae_of_halves.W_dec.copy_(
            torch.nn.functional.normalize(sae_of_halves.W_dec, dim=-1).half().float()
        )
    sae_of_halves.cfg.rescale_acts_by_decoder_norm = True
    assert torch.equal(written_directions(sae_of_halves), sae_of_halves.W_dec)


# sae-lens asks for a model whose weights are centred; here the stream is.
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs")
def test_sae_of_a_centred_residual_stream_reads_it_centred(
    tiny_sae_dir: Path, tmp_path: Path, model: LoadedModel
) -> None:
    folder = changed_config(
        tiny_sae_dir,
        tmp_path / "sae",
        model_from_pretrained_kwargs={"center_writing_weights": True},
    )
    loaded = load_sae_folder(folder, id="centred", model=model)
    resid = torch.randn(9, model.d_model, generator=torch.Generator().manual_seed(2)) + 3
    mean = resid.mean(dim=-1, keepdim=True)
    found = loaded.encode(resid)
    torch.testing.assert_close(found, loaded.sae.encode(resid - mean))
    torch.testing.assert_close(loaded.decode(found), loaded.sae.decode(found) + mean)


def test_attention_sinks_are_left_out_of_the_check() -> None:
    resid = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    resid[5] *= 70
    torch.testing.assert_close(without_sinks(resid), torch.cat([resid[:5], resid[6:]]))
    assert len(without_sinks(resid[:5])) == 5


def test_sae_of_another_width_is_refused(tmp_path: Path, model: LoadedModel) -> None:
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post")
    other = StandardSAE(StandardSAEConfig(d_in=model.d_model + 8, d_sae=64, metadata=metadata))
    other.save_model(tmp_path / "wide")
    with pytest.raises(SaeMismatchError, match=f"{model.d_model + 8} dimensions"):
        load_sae_folder(tmp_path / "wide", id="wide", model=model)


def test_sae_that_does_not_reconstruct_is_refused(tmp_path: Path, model: LoadedModel) -> None:
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(0)
    metadata = SAEMetadata(hook_name="blocks.1.hook_resid_post")
    random = StandardSAE(StandardSAEConfig(d_in=model.d_model, d_sae=64, metadata=metadata))
    random.save_model(tmp_path / "random")
    with pytest.raises(SaeMismatchError, match="unexplained"):
        load_sae_folder(tmp_path / "random", id="random", model=model)


def test_folder_that_is_no_sae_is_refused(tmp_path: Path, model: LoadedModel) -> None:
    with pytest.raises(SaeMismatchError, match="could not be read"):
        load_sae_folder(tmp_path, id="nothing", model=model)


def test_steering_vector_is_the_weighted_sum_of_decoder_directions(sae: LoadedSae) -> None:
    def direction(*latents: ChosenLatent) -> torch.Tensor:
        edit = Edit(sae.layer, sae_id=sae.id, latents=latents)
        return build_target(edit, sae, {}, tiny.D_MODEL).direction

    vector = direction(ChosenLatent(3, 2.0), ChosenLatent(7, -0.5))
    torch.testing.assert_close(vector, 2.0 * sae.W_dec[3] - 0.5 * sae.W_dec[7])
    with pytest.raises(UnknownLatentError, match="has latents 0 to"):
        direction(ChosenLatent(10**6, 1.0))


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_decoder_scale_is_undone_exactly(normalisation: str, sae: LoadedSae) -> None:
    """Adding coefficient c along latent i moves the decoded residual stream by just that much."""
    from sae_lens import StandardSAE, StandardSAEConfig

    d_model = sae.W_dec.shape[1]
    torch.manual_seed(1)
    scaled = StandardSAE(
        StandardSAEConfig(d_in=d_model, d_sae=16, normalize_activations=normalisation)
    )
    fitted = object.__new__(LoadedSae)
    fitted.normalisation = normalisation
    resid = torch.randn(5, d_model) * 40 + 3
    activations = scaled.encode(resid).detach()
    more = activations.clone()
    more[:, 4] += 2.5
    before = scaled.decode(activations).detach()
    scaled.encode(resid)  # decode undoes, once, the scaling of the rows encoded last
    moved = scaled.decode(more).detach() - before
    expected = 2.5 * scaled.W_dec[4].detach() * fitted.resid_scale(resid)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-3)


def test_unexplained_variance_by_hand() -> None:
    resid = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    assert unexplained_variance(resid, resid) == 0
    assert unexplained_variance(resid, torch.ones(2, 2)) == pytest.approx(1.0)
    assert unexplained_variance(resid, torch.tensor([[0.0, 0.0], [2.0, 1.0]])) == pytest.approx(
        0.25
    )
