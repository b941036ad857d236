"""SAEs: equal to sae-lens, checked against the model, their input scaling undone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from saif_core.errors import HookPointError, SaeMismatchError, UnknownLatentError
from saif_core.models import LoadedModel, load_model
from saif_core.records import ChosenLatent
from saif_core.saes import LoadedSae, load_sae_folder, unexplained_variance
from saif_core.steering_vector import build_steering_vector


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


def changed_config(source: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "cfg.json").read_text())
    for key, value in changes.items():
        (config["metadata"] if key in ("hook_name", "model_name") else config)[key] = value
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
        ({"model_name": "another-model"}, SaeMismatchError, "another-model"),
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
    vector = build_steering_vector(sae, [ChosenLatent(3, 2.0), ChosenLatent(7, -0.5)])
    torch.testing.assert_close(vector, 2.0 * sae.W_dec[3] - 0.5 * sae.W_dec[7])
    with pytest.raises(UnknownLatentError, match="has latents 0 to"):
        build_steering_vector(sae, [ChosenLatent(10**6, 1.0)])


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
