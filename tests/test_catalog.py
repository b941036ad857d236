"""Names of models and SAEs to what is loaded, and clear refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from saif_core.catalog import Catalog, resolve_device, resolve_dtype
from saif_core.errors import ModelError, SaeMismatchError, UnknownNameError
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import LoadedModel


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gemma-scope-0b:layer_1", "There is no sae-lens release called 'gemma-scope-0b'"),
        ("gemma-scope-2b-pt-res-canonical:x", "There is no SAE in release"),
        ("gpt2-small-mlp-tm:blocks.3.hook_mlp_out", "It reads the output of an MLP"),
        ("nothing", "There is no SAE called 'nothing'"),
        (".", "sae-lens's format"),
    ],
)
def test_what_cannot_be_used_is_listed_with_the_reason(
    name: str, words: str, tmp_path: Path, tiny_sae_dir: Path
) -> None:
    catalog = Catalog(tmp_path, extra_saes=[name, str(tiny_sae_dir)])
    refused, usable = catalog.offered_saes("m")
    assert (refused.id, usable.unsupported) == (name, "")
    assert words in refused.unsupported
    assert "\n" not in refused.unsupported
    assert catalog.saes("m") == [usable]


def test_unsupported_release_is_refused_before_its_download(
    tmp_path: Path, endless_model: LoadedModel
) -> None:
    catalog, id = Catalog(tmp_path), "gpt2-small-mlp-tm:blocks.3.hook_mlp_out"
    with pytest.raises(SaeMismatchError, match="cannot be used: it reads the output of an MLP"):
        catalog.load_sae(id, endless_model)
    with pytest.raises(SaeMismatchError, match="cannot be used: it reads the output of an MLP"):
        catalog.load_decoder(id, "gpt2")


def test_all_known_saes_are_listed(tmp_path: Path, tiny_sae_dir: Path) -> None:
    extra = "gpt2-small-resid-post-v5-32k:blocks.3.hook_resid_post"
    catalog = Catalog(tmp_path, extra_saes=[str(tiny_sae_dir), extra])
    every = catalog.known_saes()
    ids = [info.id for info in every]
    assert len(ids) == len(set(ids)) > 13_000
    assert {f"{DEFAULT_MODEL}/layer14", str(tiny_sae_dir), extra} <= set(ids)
    published = [info for info in catalog.known_saes("openai-community/gpt2") if ":" in info.id]
    assert {info.model_id for info in published} == {"gpt2-small"}
    assert len(published) > 100


def test_saes_of_base_and_instruct_versions_are_listed_together(tmp_path: Path) -> None:
    models = {info.model_id for info in Catalog(tmp_path).known_saes("google/gemma-3-1b-it")}
    assert models == {"google/gemma-3-1b-it", "google/gemma-3-1b-pt"}
    assert Catalog(tmp_path).known_saes("nobody/nothing") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 10601728\n", "Git LFS pointer"),
        (b"", "cut short or damaged, at 0 bytes"),
        (None, "cut short or damaged"),
    ],
)
def test_damaged_weights_are_told_in_a_sentence(
    content: bytes | None,
    words: str,
    tmp_path: Path,
    tiny_sae_dir: Path,
    endless_model: LoadedModel,
) -> None:
    folder = shutil.copytree(tiny_sae_dir, tmp_path / "sae")
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2] if content is None else content)
    catalog = Catalog(tmp_path, extra_saes=[str(folder)])
    (info,) = catalog.offered_saes("m")
    assert words in info.unsupported
    for load in (lambda: catalog.load_sae(str(folder), endless_model), lambda: decoder(folder)):
        with pytest.raises(SaeMismatchError, match=words) as raised:
            load()
        assert "\n" not in str(raised.value)


def decoder(folder: Path) -> torch.Tensor:
    return Catalog(folder).load_decoder(str(folder), "m")


def test_folders_of_older_sae_lens_are_described(tmp_path: Path, tiny_sae_dir: Path) -> None:
    folder = shutil.copytree(tiny_sae_dir, tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    config |= {"hook_point": config["metadata"]["hook_name"], "model_name": "old"}
    del config["metadata"]
    (folder / "cfg.json").write_text(json.dumps(config))
    (info,) = Catalog(tmp_path, extra_saes=[str(folder)]).saes("m")
    assert (info.layer, info.model_id, info.unsupported) == (1, "old", "")


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
