"""Neighbours and flow between SAEs of a model, read from their files alone."""

from pathlib import Path

import pytest
import torch

from saif_core.catalog import Catalog
from saif_core.errors import UnknownLatentError
from saif_core.explaining.neighbours import DecoderShelf
from saif_core.saes.loaded_sae import read_decoder
from tests import tiny


@pytest.fixture
def shelf(tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path: Path) -> DecoderShelf:
    below = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    catalog = Catalog(tmp_path, extra_saes=(str(tiny_sae_dir), str(below)))
    return DecoderShelf(catalog, str(tiny_model_dir))


def test_neighbours_have_the_largest_cosines(
    shelf: DecoderShelf, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    mine, other = read_decoder(tiny_sae_dir, id="one"), read_decoder(tmp_path / "below", id="two")
    for other_id, decoder in ((str(tiny_sae_dir), mine), (str(tmp_path / "below"), other)):
        cosines = torch.cosine_similarity(mine[3][None], decoder)
        if other_id == str(tiny_sae_dir):
            cosines[3] = -2
        found = shelf.neighbours(str(tiny_sae_dir), 3, other_id, 5)
        expected = cosines.topk(5)
        assert [float(cosines[n.latent]) for n in found] == pytest.approx(
            expected.values.tolist(), abs=1e-5
        )
        assert [n.cosine for n in found] == pytest.approx(expected.values.tolist(), abs=1e-5)
        assert {n.layer for n in found} == {1 if other_id == str(tiny_sae_dir) else 0}


def test_the_planted_latent_flows_from_the_layer_below(
    shelf: DecoderShelf, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    graph = shelf.flow(str(tiny_sae_dir), tiny.PLANTED_LATENT)
    edges = {(e.layer_from, e.latent_from, e.layer_to, e.latent_to) for e in graph.edges}
    assert (0, tiny.PLANTED_LATENT, 1, tiny.PLANTED_LATENT) in edges
    assert shelf.sae_of_layer(0, str(tiny_sae_dir)) == str(tmp_path / "below")


def test_a_latent_that_is_not_there_is_refused(shelf: DecoderShelf, tiny_sae_dir: Path) -> None:
    with pytest.raises(UnknownLatentError, match=f"has latents 0 to {tiny.D_SAE - 1};"):
        shelf.neighbours(str(tiny_sae_dir), tiny.D_SAE, str(tiny_sae_dir), 5)
