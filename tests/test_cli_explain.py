"""``saif health`` and ``saif decompose`` on the tiny model, with what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli.main import main
from saif_core.explaining.health import shipped_texts
from saif_core.finding.vector_files import read_vector
from tests import tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def saif(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> Run:
    """Runs ``saif`` in this process, on the tiny model and its SAE."""
    monkeypatch.setenv("SAIF_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("SAIF_SAES", str(tiny_sae_dir))
    monkeypatch.setenv("SAIF_DEVICE", "cpu")

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capfd.readouterr()

    return run


def answer(ran: tuple[int, str, str]) -> dict[str, Any]:
    status, out, err = ran
    assert status == 0, err
    data = json.loads(out)
    assert isinstance(data, dict)
    return data


def test_health_measures_every_text_and_judges(saif: Run, tiny_sae_dir: Path) -> None:
    data = answer(saif("health", "--json"))
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
    index = answer(saif("index", corpus, "--json"))["indexes"][0]
    density = answer(saif("health", "--json"))["density"]
    assert density["n_tokens"] == index["n_tokens"]
    assert density["d_sae"] == tiny.D_SAE
    assert density["n_dead"] >= 1


def test_decompose_finds_the_planted_latent_in_a_file(saif: Run, tmp_path: Path) -> None:
    file = tmp_path / "plant.npy"
    np.save(file, 2.0 * tiny.plant_direction().numpy())
    data = answer(saif("decompose", "--vector", file, "--json"))
    (atom,) = data["pursuit"]["atoms"]
    assert atom == {"index": tiny.PLANTED_LATENT, "coefficient": pytest.approx(2.0)}
    assert data["norm"] == pytest.approx(2.0)
    status, out, _ = saif("decompose", "--vector", file)
    assert status == 0
    assert "all 1 explain 100.0%" in out
    assert tiny.PLANTED_ANSWER in out


def test_decompose_of_pairs_writes_the_vector_that_it_took_apart(saif: Run, tmp_path: Path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "vector.safetensors"
    rows = [{"content": c, "instruction": tiny.PLANTED_WORD} for c in tiny.contents(6)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    asked = ("--read", "last-token", "--raw", "--atoms", 3, "--out", out, "--json")
    data = answer(saif("decompose", "--pairs", pairs, *asked))
    assert len(data["pursuit"]["atoms"]) == 3
    assert data["pursuit"]["atoms"][0]["index"] == tiny.PLANTED_LATENT
    vector = read_vector(out.name, out.read_bytes(), tiny.D_MODEL)
    assert vector.tolist() == pytest.approx(data["vector"])
    again = answer(saif("decompose", "--vector", out, "--atoms", 3, "--json"))
    assert [a["index"] for a in again["pursuit"]["atoms"]] == [
        a["index"] for a in data["pursuit"]["atoms"]
    ]


def test_not_exactly_one_source_is_refused(saif: Run, tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    np.save(file, np.ones(3, np.float32))
    for arguments in ((), ("--vector", file, "--instruction", "translate-to-french")):
        status, out, err = saif("decompose", *arguments)
        assert (status, out) == (2, "")
        assert "Give either --vector" in err
    status, out, err = saif("decompose", "--vector", file)
    assert (status, out) == (2, "")
    assert f"needs [{tiny.D_MODEL}]" in err
