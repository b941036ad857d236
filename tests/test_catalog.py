"""Names of models and SAEs to what is loaded, and clear refusals."""

from pathlib import Path

import pytest
import torch

from saif_core.catalog import Catalog, resolve_device, resolve_dtype
from saif_core.errors import ModelError, SaeMismatchError, UnknownNameError
from saif_core.models.default_model import DEFAULT_MODEL


def test_shipped_saes_come_with_measured_cards(tmp_path: Path) -> None:
    infos = Catalog(tmp_path).saes(DEFAULT_MODEL)
    assert [info.layer for info in infos] == [14, 22, 29]
    for info in infos:
        assert info.id == f"{DEFAULT_MODEL}/layer{info.layer}"
        assert info.d_sae == 4608
        assert info.tokens_seen is not None
        assert info.tokens_seen >= 2_000_000
        assert {card.text for card in info.cards} >= {"english", "french", "chat"}
        weights = Path(info.path) / "sae_weights.safetensors"
        assert weights.stat().st_size <= 11_000_000


def test_shipped_saes_belong_to_their_model_only(tmp_path: Path, tiny_model_dir: Path) -> None:
    assert Catalog(tmp_path).saes(str(tiny_model_dir)) == []


def test_extra_saes_are_folders_or_releases(tmp_path: Path, tiny_sae_dir: Path) -> None:
    release = "gemma-scope-2b-pt-res-canonical:layer_20/width_16k/canonical"
    folder, published = Catalog(tmp_path, extra_saes=[str(tiny_sae_dir), release]).saes("m")
    assert (folder.id, folder.layer, folder.d_sae) == (str(tiny_sae_dir), 1, 64)
    assert (published.id, published.layer) == (release, 20)


@pytest.mark.parametrize("name", ["no-such-release:layer_1", "gemma-scope-2b-pt-res-canonical:x"])
def test_unknown_release_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        Catalog(tmp_path, extra_saes=[name]).saes("m")


def test_folder_without_an_sae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SaeMismatchError, match="sae-lens's format"):
        Catalog(tmp_path, extra_saes=[str(tmp_path)]).saes("m")


def test_devices_and_dtypes() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_dtype("auto", "cpu") == torch.float32
    assert resolve_dtype("auto", "cuda") == torch.bfloat16
    with pytest.raises(UnknownNameError, match="float32"):
        resolve_dtype("float8", "cpu")
    with pytest.raises(ModelError, match="no such device"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no such device"):
            resolve_device("cuda:3")
