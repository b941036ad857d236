"""What is kept and what can be chosen: ``saif replay``, ``evaluations``, ``methods``, ``saes``."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.presentation.evaluation_files import evaluation_data
from app.presentation.figures import moment_words
from app.settings import load_settings
from saif_core.records.evaluation import Evaluation
from saif_core.records.sessions import SteeringSession
from saif_core.registry import SELECTORS, SOURCES, use_plugins
from storage import open_store
from tests import tiny
from tests.cli import Run
from tests.test_evaluation_files import sample_evaluation, sample_text

NAMED = f"{tiny.PLANTED_LATENT}:9"
SOURCE = '''
"""Source ``mine``."""


def mine(study, *, size: float = 1.5):
    """What I steer with.

    Args:
        size: how much.
    """
'''


@pytest.fixture
def evaluation(saif: Run) -> Evaluation:
    """An evaluation in the store, with a text in each of its best cells."""
    assert saif("evaluations", "list", "--json").answer == {"evaluations": []}
    made = sample_evaluation()
    store = open_store(load_settings().database_url)
    store.evaluations.save(made, [sample_text(best.cell, "Voilà <b>.") for best in made.best])
    store.close()
    return made


def test_a_session_is_written_again_to_the_last_token(saif: Run, tmp_path: Path) -> None:
    file = tmp_path / "plant.npy"
    np.save(file, 9.0 * tiny.plant_direction().numpy())
    made = saif(
        *("generate", "--prompt", "The cat", "--max-new-tokens", 5, "--vector", file),
        *("--arm", f"basket:latents={NAMED}", "--arm", "random", "--temperature", 0.8),
        *("--samples", 2, "--save", "Kept", "--json"),
    ).answer
    out = tmp_path / "kept.saif.json"
    assert saif("session", "export", made["session"], "--out", out).status == 0

    found = saif("replay", made["session"], "--json").answer

    assert (found["equal"], found["n_equal"], found["n_texts"]) == (True, 8, 8)
    assert found["differs"] == []
    assert all(one["then"] == one["now"] for one in found["texts"])
    assert saif("replay", out, "--json").answer["n_equal"] == 8
    assert "8 of 8 texts have the same tokens" in saif("replay", made["session"]).out


def test_another_model_is_named_where_texts_differ(saif: Run, tmp_path: Path) -> None:
    made = saif(
        *("generate", "--prompt", "The cat", "--max-new-tokens", 5, "--latents", NAMED),
        *("--save", "Kept", "--json"),
    ).answer
    other = tiny.save_model(tmp_path / "other", seed=3)

    ran = saif("replay", made["session"], "--model", other, "--json")

    found = json.loads(ran.out)
    assert ran.status == 1
    assert found["equal"] is False
    assert found["n_equal"] < found["n_texts"] == 2
    (model,) = (one for one in found["differs"] if one["what"] == "model")
    assert model["then"] == made["recipe"]["model_sha256"] != model["now"]
    text = saif("replay", made["session"], "--model", other)
    assert text.status == 1
    assert "What differs from the recipe" in text.out


def test_a_recipe_that_differs_without_other_texts_is_told(saif: Run, tmp_path: Path) -> None:
    made = saif(
        *("generate", "--prompt", "The cat", "--max-new-tokens", 3, "--latents", NAMED),
        *("--save", "Kept", "--json"),
    ).answer
    file = tmp_path / "kept.json"
    file.write_text(saif("session", "export", made["session"]).out, encoding="utf-8")
    document = json.loads(file.read_text(encoding="utf-8"))
    for recipe in (document["session"]["recipe"], document["session"]["result"]["recipe"]):
        recipe["versions"]["torch"] = "0.1"
        recipe["plugin_sha256s"]["addition"] = "0" * 64
    file.write_text(json.dumps(document), encoding="utf-8")

    found = saif("replay", file, "--json").answer

    assert found["equal"] is True
    assert [one["what"] for one in found["differs"]] == ["method addition", "version torch"]
    assert found["differs"][1]["then"] == "0.1"


def test_a_session_without_texts_cannot_be_replayed(saif: Run) -> None:
    load_settings().home.mkdir(parents=True, exist_ok=True)
    store = open_store(load_settings().database_url)
    session = store.sessions.save(SteeringSession("Empty"))
    store.close()
    assert "holds no texts" in saif("replay", session.id).refusal
    assert "nobody" in saif("replay", "nobody").refusal
    assert "missing.json" in saif("replay", "missing.json").refusal


def test_a_corpus_is_written_read_and_carried_elsewhere(
    saif: Run, tmp_path: Path, tiny_sae_dir: Path
) -> None:
    out = tmp_path / "own.jsonl"
    asked = ("write-text", "--out", out, "--limit", 70, "--tokens", 3)
    told = saif(*asked, "--json").answer
    assert (told["file"], told["conversations"]) == (str(out), 70)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    chats, plain = lines[:70], lines[70:]
    assert [turn["role"] for turn in chats[0]["messages"]] == ["user", "assistant"]
    assert len(plain) == told["texts"] > 0
    assert len({chat["messages"][1]["content"] for chat in chats}) > 35  # each drawn by itself
    assert saif(*asked).status == 0
    assert [json.loads(x) for x in out.read_text(encoding="utf-8").splitlines()] == lines
    assert not (load_settings().home / "saif.db").exists()  # thousands of jobs are not listed

    folder = tmp_path / "export"
    (made,) = saif("index", out, "--export", folder, "--json").answer["indexes"]
    assert made["file"] == str(folder / f"{tiny_sae_dir.name}.index")
    assert Path(made["file"]).stat().st_size > 1000
    assert made["finished"]
    assert made["sae_id"] == str(tiny_sae_dir)


def test_evaluations_are_listed_shown_exported_and_deleted(
    saif: Run, evaluation: Evaluation, tmp_path: Path
) -> None:
    (listed,) = saif("evaluations", "list", "--json").answer["evaluations"]
    assert (listed["id"], listed["n_cells"]) == (evaluation.id, len(evaluation.cells))
    assert saif("evaluations", "list", "--instruction", "other", "--json").answer == {
        "evaluations": []
    }
    assert (listed["best_useful"], listed["best_strict"]) == (pytest.approx(0.38), 0.46)
    listing = saif("evaluations", "list").out
    assert "38%     46%" in listing
    assert evaluation.id in listing
    assert moment_words(evaluation.created_at) in listing
    assert listed["created_at"] == evaluation.created_at not in listing
    shown = saif("evaluations", "show", evaluation.id, "--json").answer
    assert shown == json.loads(json.dumps(evaluation_data(evaluation)))
    assert "test contents" in saif("evaluations", "show", evaluation.id).out
    cell = evaluation.best[0].cell
    texts = saif("evaluations", "show", evaluation.id, "--cell", cell, "--json").answer["texts"]
    assert [text["about"] for text in texts] == [True]
    assert "about its content" in saif("evaluations", "show", evaluation.id, "--cell", cell).out
    assert [text["text"] for text in texts] == ["Voilà <b>."]

    def exported(form: str) -> str:
        out = tmp_path / f"out.{form}"
        asked = ("evaluations", "export", evaluation.id, "--as", form)
        assert saif(*asked, "--out", out, "--json").answer["as"] == form
        document = out.read_text(encoding="utf-8")
        assert saif(*asked).out.split() == document.split()
        return document

    assert exported("html").count("Voilà &lt;b&gt;.") == len(evaluation.best)
    rows = list(csv.DictReader(io.StringIO(exported("csv"))))
    assert len(rows) == len(evaluation.cells)
    told = list(csv.DictReader(io.StringIO(exported("texts-csv"))))
    assert [row["text"] for row in told] == ["Voilà <b>."] * len(evaluation.best)
    assert [int(row["cell"]) for row in told] == sorted(best.cell for best in evaluation.best)
    data = json.loads(exported("json"))
    held = [text["text"] for texts in data.pop("texts").values() for text in texts]
    assert held == ["Voilà <b>."] * len(evaluation.best)
    assert data == shown
    assert saif("evaluations", "delete", evaluation.id, "--json").answer["deleted"] is True
    for command in ("show", "export", "delete"):
        assert evaluation.id in saif("evaluations", command, evaluation.id).refusal


def test_methods_tell_everything_of_every_plugin(saif: Run) -> None:
    found = saif("methods", "--json").answer

    kinds = ["selectors", "sources", "steering_methods", "evaluators", "target_rules"]
    assert list(found) == kinds
    sources = {one["name"]: one for one in found["sources"]}
    assert set(sources) == set(SOURCES.names())
    assert sources["saif"]["file_sha256"] == SOURCES.get("saif").file_sha256
    top = next(p for p in sources["saif"]["parameters"] if p["name"] == "top")
    assert top == {
        "name": "top",
        "type": "int",
        "choices": [],
        "optional": False,
        "required": False,
        "default": 15,
        "at_least": 1,
        "above": None,
        "at_most": 1000,
        "below": None,
        "help": "how many latents.",
    }
    (compare,) = next(one for one in found["selectors"] if one["name"] == "sensitivity")[
        "parameters"
    ]
    assert (compare["type"], compare["choices"]) == ("choice", ["fires", "higher"])
    methods = {one["name"]: one["needs_sae"] for one in found["steering_methods"]}
    assert methods["clamp"]
    assert not methods["addition"]
    assert {one["name"] for one in found["selectors"]} == set(SELECTORS.names())
    text = saif("methods").out
    assert "beta=0.0" in text
    assert "steering methods" in text


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "plugins"
    (folder / "sources").mkdir(parents=True)
    yield folder
    use_plugins([])


def test_plugins_of_ones_own_are_among_them(
    saif: Run, plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plugin_folder / "sources" / "mine.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setenv("SAIF_PLUGINS", str(plugin_folder))
    sources = {one["name"]: one for one in saif("methods", "--json").answer["sources"]}
    assert sources["mine"]["help"] == "What I steer with."
    assert sources["mine"]["parameters"][0]["default"] == 1.5
    (plugin_folder / "sources" / "mine.py").write_text("import nowhere", encoding="utf-8")
    assert "mine.py" in saif("methods").refusal
    assert "mine.py" in saif("latent", 7).refusal
    monkeypatch.setenv("SAIF_PLUGINS", str(plugin_folder / "none"))
    assert "there is no such folder" in saif("methods").refusal


def test_saes_are_listed_with_what_speaks_against_them(
    saif: Run, monkeypatch: pytest.MonkeyPatch, tiny_sae_dir: Path, tiny_model_dir: Path
) -> None:
    bad = "gpt2-small-mlp-tm:blocks.3.hook_mlp_out"
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{bad}")

    found = saif("saes", "--json").answer

    assert found["model"] == str(tiny_model_dir)
    good, refused = found["saes"]
    assert (good["id"], good["layer"], good["d_sae"]) == (str(tiny_sae_dir), 1, tiny.D_SAE)
    assert (good["supported"], good["unsupported"]) == (True, "")
    assert refused["supported"] is False
    assert "MLP" in refused["unsupported"]
    every = saif("saes", "--all", "--json").answer["saes"]
    assert len(every) > 1000
    assert {"id", "model_id", "layer", "hook_point", "d_sae", "supported"} <= set(every[-1])
    assert any(one["model_id"].endswith("gemma-2-2b") for one in every)
    only = saif("saes", "--all", "--model", "gpt2", "--json").answer["saes"]
    assert 1 < len(only) < len(every)
    assert "can be used" in saif("saes").out
