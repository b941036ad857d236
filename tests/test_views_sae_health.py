import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

from app.charts.health import density_chart
from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from app.presentation.health import density_sentence, figure_table, verdict
from saif_core.explaining.health import shipped_texts, summarize_density
from saif_core.records.health import Finding, TextMeasurement
from saif_core.records.saes import SaeCard
from tests.explained import check_explained
from tests.pages import errors, index_words, open_page, settle, texts, wait_for

pytestmark = pytest.mark.usefixtures("tiny_process")
CARD = {"text": "english", "n_tokens": 2345, "fvu": 0.2, "explained_variance": 0.8}
CARD |= {"ce_recovered": 0.875, "l0": 16.0}


@pytest.fixture
def sae_with_card(
    tiny_process: None,  # noqa: ARG001
    tmp_path: Path,
    tiny_sae_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The planted SAE with a card, the only one offered."""
    folder = tmp_path / "with-card"
    shutil.copytree(tiny_sae_dir, folder)
    card = {"dead_fraction": 0.03, "tokens_seen": 5000, "sources": ["<script>"], "cards": [CARD]}
    (folder / "card.json").write_text(json.dumps(card))
    monkeypatch.setenv("SAIF_SAES", str(folder))
    return folder


@pytest.fixture
def random_sae(
    tiny_process: None,  # noqa: ARG001
    tmp_path: Path,
    tiny_sae_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """An SAE of random weights under the right names, the only one offered."""
    folder = tmp_path / "random-sae"
    shutil.copytree(tiny_sae_dir, folder)
    draw = torch.Generator().manual_seed(0)
    weights = load_file(folder / "sae_weights.safetensors")
    drawn = {name: torch.randn(w.shape, generator=draw) for name, w in weights.items()}
    save_file(drawn, folder / "sae_weights.safetensors")
    monkeypatch.setenv("SAIF_SAES", str(folder))
    return folder


def figures(at: AppTest) -> dict[str, list[Any]]:
    (frame,) = at.dataframe
    found: dict[str, list[Any]] = frame.value.to_dict("list")
    return found


def measure(at: AppTest) -> tuple[TextMeasurement, ...]:
    settle(at.button(key="health_measure").click().run())
    job = next(job for job in engine().jobs() if job.kind == "health")
    wait_for(job)
    settle(at.run())
    measured: tuple[TextMeasurement, ...] = job.result().texts
    return measured


def test_without_card_and_index_the_page_says_what_to_do() -> None:
    at = open_page("sae_health")
    assert "Nothing is known of its quality yet." in texts(at)
    assert "without a card" in texts(at)
    assert "No corpus was indexed" in texts(at)
    assert not at.dataframe
    assert not errors(at)


@pytest.mark.usefixtures("sae_with_card")
def test_the_card_is_shown_and_judged() -> None:
    at = open_page("sae_health")
    assert "Use with care: 1 of 3 measures are not good." in texts(at)
    assert "87\\.5% on english" in texts(at)
    assert "trained on 5,000 tokens" in texts(at)
    assert "\\<script\\>" in texts(at)
    assert "<script>" not in texts(at)
    shown = figures(at)
    assert (shown["measured"], shown["tokens"]) == (["its card"], [2345])
    assert shown["ce"] == [pytest.approx(87.5)]
    assert errors(at) == []


@pytest.mark.usefixtures("sae_with_card")
def test_figures_measured_here_stand_beside_the_card_and_are_judged() -> None:
    at = open_page("sae_health")
    measured = measure(at)
    assert [one.card.text for one in measured] == list(shipped_texts())
    shown = figures(at)
    assert shown["text"][:2] == ["english", "english"]
    assert shown["measured"] == ["its card"] + ["here"] * len(measured)
    by_text = {one.card.text: one for one in measured}
    for text, fvu, tokens in zip(
        shown["text"][1:], shown["fvu"][1:], shown["tokens"][1:], strict=True
    ):
        assert (fvu, tokens) == (by_text[text].card.fvu, by_text[text].card.n_tokens)
    assert "CE recovered and FVU: measured here." in texts(at)


def test_densities_come_from_the_index(tiny_sae_dir: Path, tmp_path: Path) -> None:
    index = index_words(str(tiny_sae_dir), tmp_path)
    at = open_page("sae_health")
    n_fired = store().latents.density(index.id)
    n_dead = int((n_fired == 0).sum())
    n_dense = int((n_fired > 0.1 * index.n_tokens).sum())
    assert n_dead > 0
    assert f"{n_dead:,} never fire here" in texts(at)
    assert "are dead" not in texts(at)
    assert f"Read on words · {index.n_tokens:,} tokens" in texts(at)
    assert f"{n_dense:,} are dense" in texts(at)
    assert f"n = {index.n_tokens:,} tokens" in texts(at)
    assert "too small to tell dead latents from rare ones" in texts(at)
    assert len(at.get("vega_lite_chart")) == 1


def test_an_sae_that_does_not_fit_gives_its_reason(random_sae: Path) -> None:
    at = open_page("sae_health", work=Work(sae_id=str(random_sae)))
    (message,) = errors(at)
    assert "of the variance" in message
    assert "most likely trained on another model or layer" in message
    assert at.button(key="health_measure").disabled
    assert "Nothing is known" not in texts(at)


def test_compare_refuses_an_sae_that_does_not_fit_before_anything_is_written(
    random_sae: Path,
) -> None:
    work = Work(sae_id=str(random_sae))
    work.add_latent(3, 1.0)
    at = open_page("compare", work=work)
    at.text_area(key="compare_prompt").set_value("The old cat sees the house.")
    settle(at.run())
    (message,) = errors(at)
    assert "most likely trained on another model or layer" in message
    button = at.button(key="compare_generate")
    assert button.disabled
    assert "of the variance" in button.help
    assert any(link.proto.label == "Is this SAE any good?" for link in at.get("page_link"))


def test_a_card_and_what_is_measured_of_the_same_text_stand_together() -> None:
    english, french = (SaeCard(text, 10, 0.2, 0.8, 0.9, 3.0) for text in ("english", "french"))
    here = [TextMeasurement(card, 0.25) for card in (french, english)]
    table = figure_table((english,), here)
    assert table["text"] == ["english", "english", "french"]
    assert table["measured"] == ["its card", "here", "here"]
    assert table["sinks"] == [None, 25.0, 25.0]


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        ([True, True, True], "Good by all 3"),
        ([True, None, True], "1 of 3 measures are missing"),
        ([False, None, True], "1 of 3 measures are not good"),
        ([None, None, None], "Nothing is known"),
    ],
)
def test_the_verdict_follows_the_findings(passed: list[bool | None], words: str) -> None:
    assert words in verdict([Finding(one, "") for one in passed])


def test_the_histogram_holds_dead_dense_and_the_others() -> None:
    report = summarize_density(np.array([0, 0, 1, 50_000, 500_000]), 1_000_000)
    dead, *others = density_chart(report).data.values
    assert (dead["kind"], dead["n"]) == ("dead", 2)
    assert dead["to"] < -6 == others[0]["from"]
    assert [row["kind"] for row in others] == ["fires", "fires", "dense"]
    assert [row["n"] for row in others] == [1, 1, 1]
    assert "2 are dead (40.0%) and 1 is dense" in density_sentence(report)


@pytest.mark.usefixtures("sae_with_card")
def test_what_a_newcomer_cannot_know_is_explained() -> None:
    check_explained(
        open_page("sae_health"),
        SAE="SAE",
        FVU="FVU",
        CE_recovered="CE recovered",
        explained_variance="explained variance",
        L0="L0",
        token="tokens",
        density="How often its latents fire",
        residual_stream="How much of the residual stream",
    )
