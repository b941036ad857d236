"""Health of an SAE: the shipped texts, what is measured on them, thresholds and densities."""

import math
from pathlib import Path

import numpy as np
import pytest

from saif_core.explaining.health import (
    CHAT,
    LEAST_DEAD_TOKENS,
    judge_health,
    measure_health,
    shipped_texts,
    summarize_density,
)
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.saes import SaeCard
from saif_core.saes.card import measure_sae
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


def card(text: str, *, ce: float = 0.95, fvu: float = 0.1) -> SaeCard:
    return SaeCard(text, 1234, fvu, 1 - fvu, ce, 16.0)


def test_there_are_five_texts_of_at_least_forty_different_lines() -> None:
    texts = shipped_texts()
    assert list(texts) == ["chat", "english", "french", "german", "spanish"]
    for lines in texts.values():
        assert len(set(lines)) == len(lines) >= 40
        assert all(line.strip() == line and line for line in lines)
    assert not set(texts["english"]) & set(texts["french"])


def test_every_text_is_measured_as_the_card_is(model: LoadedModel, sae: LoadedSae) -> None:
    steps: list[str] = []
    found = measure_health(model, sae, step=lambda _done, _total, said: steps.append(said))
    assert [one.card.text for one in found] == list(shipped_texts())
    assert [said for said in steps if said.startswith("measuring")] == [
        f"measuring on {kind}" for kind in shipped_texts()
    ]
    lines = shipped_texts()["german"]
    sequences = [model.encode_prompt(line, chat=False) for line in lines]
    german = next(one for one in found if one.card.text == "german")
    assert german.card == measure_sae(model, sae, {"german": sequences}).cards[0]
    n_after_first = sum(map(len, sequences)) - len(sequences)
    assert german.sink_share == pytest.approx(
        (n_after_first - german.card.n_tokens) / n_after_first
    )


def test_chats_are_read_with_the_answers_that_the_model_writes(
    model: LoadedModel, sae: LoadedSae
) -> None:
    chat = next(one for one in measure_health(model, sae) if one.card.text == CHAT)
    prompts = [model.encode_prompt(line, chat=True) for line in shipped_texts()[CHAT]]
    assert chat.card.n_tokens / (1 - chat.sink_share) > sum(map(len, prompts))


def test_without_a_chat_template_there_are_no_chats(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "base", with_chat_template=False)
    base = load_model(folder, id=str(folder))
    sae = load_sae_folder(tiny.save_sae(tmp_path / "sae", folder), id="sae", model=base)
    assert [one.card.text for one in measure_health(base, sae)] == [
        kind for kind in shipped_texts() if kind != CHAT
    ]


def test_the_worst_text_decides_and_thresholds_themselves_pass() -> None:
    cards = [card("english"), card("french", ce=0.9, fvu=0.3)]
    assert [one.passed for one in judge_health(cards, 0.1)] == [True, True, True]
    worse = [card("english", ce=0.899), card("french", fvu=0.301)]
    recovered, unexplained, dead = judge_health(worse, 0.101)
    assert (recovered.passed, unexplained.passed, dead.passed) == (False, False, False)
    assert "89.9% on english" in recovered.sentence
    assert "n = 1,234 tokens" in recovered.sentence
    assert "0.301 on french" in unexplained.sentence
    assert "10.1% of the latents" in dead.sentence


def test_what_was_not_measured_is_not_judged() -> None:
    findings = judge_health([], None)
    assert [one.passed for one in findings] == [None] * 3
    assert all("not" in one.sentence for one in findings)


def test_densities_are_counted_with_the_dead_apart() -> None:
    n_fired = np.array([0, 0, 1, 10, 100, 101, 1000, 9])
    report = summarize_density(n_fired, 1000)
    assert (report.d_sae, report.n_dead) == (8, 2)
    assert report.n_dense == 2  # 101 and 1000 of 1000; a tenth itself is not dense
    assert sum(n for _, _, n in report.bins) == 6
    assert (report.bins[0][0], report.bins[-1][1]) == (-3, 0)
    for low, high, n in report.bins:
        top = high if high < 0 else math.inf
        inside = sum(bool(f) and low <= math.log10(f / 1000) < top for f in n_fired)
        assert n == inside


def test_an_sae_that_never_fires_is_all_dead() -> None:
    report = summarize_density(np.zeros(5, dtype=np.int64), 0)
    assert (report.n_dead, report.n_dense) == (5, 0)
    assert sum(n for _, _, n in report.bins) == 0


def test_dead_is_only_told_from_rare_on_enough_tokens() -> None:
    n_fired = np.array([0, 5, 5, 5])
    assert summarize_density(n_fired, LEAST_DEAD_TOKENS - 1).dead_fraction is None
    assert summarize_density(n_fired, LEAST_DEAD_TOKENS).dead_fraction == 0.25


def test_measuring_an_sae_counts_to_its_end_once(model: LoadedModel, sae: LoadedSae) -> None:
    steps: list[tuple[int, int, str]] = []

    def step(done: int, total: int, message: str) -> None:
        steps.append((done, total, message))

    measure_health(model, sae, step=step)
    done = [one for one, _, _ in steps]
    assert done == sorted(done)
    assert len({total for _, total, _ in steps}) == 1
    # The last kind of text is still to be measured when it is told.
    assert all(one < total for one, total, _ in steps)
