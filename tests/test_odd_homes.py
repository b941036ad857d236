"""Folders with names that mean something in URLs, and SAEs as they were saved years ago."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from app.installation import open_installed_store
from app.settings import load_settings
from saif_core.catalog import Catalog
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.jobs import JobRecord
from tests import tiny


@pytest.mark.parametrize(
    "name", ["100%", "a%20b", "a%41b", "what?", "a?mode=ro", "a#b", "a b", "größe", "a;b=c", "%"]
)
def test_the_database_lies_in_the_home_whatever_its_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / "homes" / name
    settings = load_settings({"SAIF_HOME": str(home)})
    for number in range(2):
        store = open_installed_store(settings)
        assert len(store.jobs.list()) == number
        store.jobs.save_job(JobRecord(str(number), "rank", "t"))
        store.close()
    assert (home / "saif.db").is_file()
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [name]
    # As the environment of a further process says it.
    again = load_settings({"SAIF_DATABASE_URL": settings.database_url})
    assert again.database_url == settings.database_url


@pytest.mark.parametrize("names_its_architecture", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_an_sae_saved_before_version_6_of_sae_lens_is_listed_and_loaded(
    tmp_path: Path,
    tiny_model_dir: Path,
    endless_model: LoadedModel,
    architecture: tiny.Architecture,
    names_its_architecture: bool,
) -> None:
    folder = tiny.save_sae(tmp_path / "sae", tiny_model_dir, architecture=architecture)
    catalog = Catalog(tmp_path, extra_saes=[str(folder)])
    expected = catalog.load_sae(str(folder), endless_model)
    config: dict[str, Any] = json.loads((folder / "cfg.json").read_text())
    metadata = config.pop("metadata")
    config.pop("reshape_activations")
    k = config.pop("k", None)
    config |= {
        "activation_fn_str": "topk" if k else "relu",
        "activation_fn_kwargs": {"k": k} if k else {},
        "architecture": "standard",
        "context_size": 128,
        "dataset_path": "some/texts",
        "finetuning_scaling_factor": False,
        "hook_head_index": None,
        "hook_layer": 1,
        "hook_name": metadata["hook_name"],
        "model_name": metadata["model_name"],
        "prepend_bos": False,
        "sae_lens_training_version": "3.12.0",
    }
    if not names_its_architecture:
        config["hook_point"] = config.pop("hook_name")
        config["hook_point_layer"] = config.pop("hook_layer")
        del config["architecture"]
    (folder / "cfg.json").write_text(json.dumps(config))

    (info,) = catalog.offered_saes("tiny")
    assert (info.layer, info.hook_point, info.d_sae) == (1, metadata["hook_name"], tiny.D_SAE)
    assert (info.unsupported, info.model_id) == ("", metadata["model_name"])
    loaded = catalog.load_sae(str(folder), endless_model)
    assert (loaded.layer, loaded.warning) == (1, "")
    resid = torch.randn(20, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.encode(resid), expected.encode(resid), rtol=0, atol=0)
    torch.testing.assert_close(catalog.load_decoder(str(folder), "tiny"), expected.W_dec)
