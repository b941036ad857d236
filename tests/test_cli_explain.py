"""``saif health`` and ``saif vector`` on the tiny model, with what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest

from saif_core.explaining.health import shipped_texts
from saif_core.finding.vector_files import read_vector
from tests import tiny
from tests.cli import Run


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"content": c, "instruction": tiny.PLANTED_WORD} for c in tiny.contents(6)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_health_measures_every_text_and_judges(saif: Run, tiny_sae_dir: Path) -> None:
    data = saif("health", "--json").answer
    assert data["sae"] == str(tiny_sae_dir)
    assert [text["card"]["text"] for text in data["texts"]] == list(shipped_texts())
    assert [finding["passed"] for finding in data["findings"]][2] is None
    assert data["density"] is None
    status, out, _ = saif("health", "--layer", 1)
    assert status == 0
    assert data["verdict"] in out
    assert "No corpus was indexed" in out


def test_health_counts_densities_of_an_indexed_corpus(saif: Run, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in tiny.contents(30)))
    index = saif("index", corpus, "--json").answer["indexes"][0]
    density = saif("health", "--json").answer["density"]
    assert density["n_tokens"] == index["n_tokens"]
    assert density["d_sae"] == tiny.D_SAE
    assert density["n_dead"] >= 1


def test_the_planted_latent_is_found_in_a_file(saif: Run, tmp_path: Path) -> None:
    file = tmp_path / "plant.npy"
    np.save(file, 2.0 * tiny.plant_direction().numpy())
    data = saif("vector", "show", "--vector", file, "--json").answer
    (atom,) = data["pursuit"]["atoms"]
    assert atom == {"index": tiny.PLANTED_LATENT, "coefficient": pytest.approx(2.0)}
    assert data["norm"] == pytest.approx(2.0)
    status, out, _ = saif("vector", "show", "--vector", file)
    assert status == 0
    assert "all 1 explain 100.0%" in out
    assert tiny.PLANTED_ANSWER in out


def test_the_vector_of_pairs_is_written_as_it_was_taken_apart(
    saif: Run, tmp_path: Path, pairs_file: Path
) -> None:
    out = tmp_path / "vector.safetensors"
    asked = ("--read", "last-token", "--no-chat", "--atoms", 3, "--out", out, "--json")
    data = saif("vector", "show", "--pairs", pairs_file, *asked).answer
    assert len(data["pursuit"]["atoms"]) == 3
    assert data["pursuit"]["atoms"][0]["index"] == tiny.PLANTED_LATENT
    vector = read_vector(out.name, out.read_bytes(), tiny.D_MODEL)
    assert vector.tolist() == pytest.approx(data["vector"])
    again = saif("vector", "show", "--vector", out, "--atoms", 3, "--json").answer
    assert [a["index"] for a in again["pursuit"]["atoms"]] == [
        a["index"] for a in data["pursuit"]["atoms"]
    ]


def test_not_exactly_one_origin_is_refused(saif: Run, tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    np.save(file, np.ones(3, np.float32))
    for arguments in ((), ("--vector", file, "--instruction", "translate-to-french")):
        assert "Give either --vector" in saif("vector", "show", *arguments).refusal
    assert f"needs [{tiny.D_MODEL}]" in saif("vector", "show", "--vector", file).refusal
    out = ("--out", tmp_path / "x.safetensors")
    assert (
        "give --instruction or --pairs"
        in saif("vector", "export", *out, "--latents", "7:1", "--source", "saif").refusal
    )


def test_vectors_of_sources_latents_and_arms_are_exported(
    saif: Run, tmp_path: Path, pairs_file: Path
) -> None:
    ranked = ("--pairs", pairs_file, "--read", "last-token")
    made = saif(
        *("generate", "--prompt", "The cat", "--max-new-tokens", 2, *ranked, "--save", "Kept"),
        *("--arm", "mean_difference", "--arm", "saif:method=clamp,name=held", "--json"),
    ).answer

    def exported(*arguments: object) -> list[float]:
        out = tmp_path / "out.safetensors"
        told = saif("vector", "export", "--out", out, *arguments, "--json").answer
        assert told["d_model"] == tiny.D_MODEL
        vector = read_vector(out.name, out.read_bytes(), tiny.D_MODEL)
        assert float(vector.norm()) == pytest.approx(told["norm"])
        found: list[float] = vector.tolist()
        return found

    session = ("--session", made["session"])
    assert exported(*ranked, "--source", "saif") == pytest.approx(exported(*session))
    mean = exported(*ranked)
    assert exported(*session, "--arm", "mean_difference") == pytest.approx(mean, abs=1e-5)
    assert exported(*ranked, "--source", "mean_difference") == mean
    plant = (3.0 * tiny.plant_direction()).tolist()
    assert exported("--latents", f"{tiny.PLANTED_LATENT}:3") == pytest.approx(plant)
    out = ("--out", tmp_path / "x.safetensors", *session)
    assert "'clamp'" in saif("vector", "export", *out, "--arm", "held").refusal
    assert (
        "steered, mean_difference, held"
        in saif("vector", "export", *out, "--arm", "nobody").refusal
    )


def test_the_vector_of_several_layers_is_that_of_the_layer_that_is_named(
    saif: Run,
    tmp_path: Path,
    pairs_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> None:
    below = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{below}")
    made = saif(
        *("generate", "--prompt", "The cat", "--max-new-tokens", 2, "--pairs", pairs_file),
        *("--read", "last-token", "--source", "mean_difference", "--layers", "0,1"),
        *("--save", "Both", "--json"),
    ).answer
    out = tmp_path / "x.safetensors"
    asked = ("vector", "export", "--out", out, "--session", made["session"])
    vectors = []
    for layer in (0, 1):
        assert saif(*asked, "--layer", layer).status == 0
        vectors.append(read_vector(out.name, out.read_bytes(), tiny.D_MODEL).tolist())
    assert vectors[0] != vectors[1]
