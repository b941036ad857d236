"""The indexes that ship: they belong to the shipped SAEs, and their examples are what is read."""

import numpy as np
import pytest
import torch

from app.settings import load_settings
from saif_core.catalog import Catalog
from saif_core.inputs.shipped import SHIPPED_INDEXES
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import LoadedModel
from storage import open_store

pytestmark = pytest.mark.slow
# Read before a fixture gives every test a home of its own: the model is not fetched again.
HOME = load_settings().home
LAYERS = (14, 22, 29)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog(HOME)


@pytest.fixture(scope="module")
def model(catalog: Catalog) -> LoadedModel:
    return catalog.load_model(DEFAULT_MODEL, device="cpu", dtype="float32")


def test_they_take_no_more_than_8_mb() -> None:
    files = [SHIPPED_INDEXES / DEFAULT_MODEL / f"layer{layer}.index" for layer in LAYERS]
    assert sum(file.stat().st_size for file in files) <= 8_000_000


@pytest.mark.parametrize("layer", LAYERS)
def test_examples_are_what_the_model_gives_on_their_contexts(
    catalog: Catalog, model: LoadedModel, layer: int
) -> None:
    store = open_store("sqlite://")
    sae_id = f"{DEFAULT_MODEL}/layer{layer}"
    index_id = store.profiles.import_index((SHIPPED_INDEXES / f"{sae_id}.index").read_bytes())
    (index,) = store.latents.indexes()
    sae = catalog.load_sae(sae_id, model)
    assert (index.sae_sha256, index.model_sha256) == (sae.sha256, model.sha256)
    assert index.sae_id == sae_id
    assert index.n_tokens >= 300_000
    density = store.latents.density(index_id)
    frequent = np.flatnonzero(density > 100)
    for latent in np.random.default_rng(layer).choice(frequent, 4, replace=False).tolist():
        profile = store.profiles.get(index_id, latent)
        assert profile.n_fired == density[latent]
        for example in profile.examples[:3]:
            ids = store.profiles.contexts(index_id, [example.context])[example.context].tolist()
            resid = model.run_sequences(torch.tensor([ids]), [len(ids)], [layer])[layer][0]
            window = slice(example.start, example.start + len(example.activations))
            expected = sae.encode(resid)[window, latent].numpy()
            np.testing.assert_allclose(example.activations, expected, rtol=2e-3, atol=0.05)
    store.close()
