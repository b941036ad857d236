"""The search page on the tiny model: words and figures, meaning, a text, two sets of texts."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import store_tasks
from app.dashboard.handles import engine, store
from app.dashboard.search import meaning as search_meaning
from app.dashboard.search.text import ribbon
from app.dashboard.search.words import matching_tokens
from app.store_tasks import vectors_file
from saif_core.explaining import latent_scores
from saif_core.explaining.text_reading import read_texts
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.text_embeddings import REQUIREMENT, TextEmbedder
from saif_core.records.corpus import LatentFilter, LatentIndex
from saif_core.records.latents import TextReading
from saif_core.records.questions import ContrastReport, TextQuestion
from saif_core.saes.loaded_sae import LoadedSae
from tests import tiny
from tests.explained import check_explained
from tests.pages import MAIN, errors, index_words, open_page, settle, texts, wait_for
from tests.test_text_embeddings import folder as folder  # the random BERT
from tests.tiny import D_SAE, PLANTED_LATENT, PLANTED_WORD

pytestmark = pytest.mark.usefixtures("tiny_process")


@pytest.fixture
def index(tiny_process: None, tiny_sae_dir: Path, tmp_path: Path) -> LatentIndex:  # noqa: ARG001
    return index_words(str(tiny_sae_dir), tmp_path)


def table(at: AppTest, name: str) -> Any:
    (found,) = (frame for frame in at.dataframe if (frame.key or "").startswith(f"search_{name}_"))
    return found


def rows(at: AppTest, name: str = "words") -> Any:
    return table(at, name).value


def press(at: AppTest, label: str) -> AppTest:
    (button,) = (button for button in at.button if button.label == label)
    return settle(button.click().run())


def select(at: AppTest, name: str, **selection: list[Any]) -> AppTest:
    empty: dict[str, list[Any]] = {"rows": [], "columns": [], "cells": []}
    at.session_state[table(at, name).key] = {"selection": empty | selection}
    return settle(at.run())


def test_without_an_index_the_page_says_what_to_do() -> None:
    at = open_page("search")
    assert "No corpus was read through this SAE yet" in texts(at)
    assert [link.proto.label for link in at.get("page_link")] == ["Read a corpus"]
    assert not at.dataframe


def test_the_table_is_what_the_store_says(index: LatentIndex) -> None:
    at = open_page("search")
    expected = store().profiles.page(index.id, limit=50)
    assert expected.n_total > 50
    shown = rows(at)
    assert shown["latent"].tolist() == [row.latent for row in expected.rows]
    densities = [100 * row.n_fired / index.n_tokens for row in expected.rows]
    assert shown["density"].tolist() == pytest.approx(densities)
    assert shown["maximum"].tolist() == [row.maximum for row in expected.rows]
    assert f"**{expected.n_total:,}** of {D_SAE} latents, 1 to 50 shown" in texts(at)
    assert f"n = {index.n_tokens:,} tokens" in texts(at)
    settle(at.get("pagination")[0].set_value(2).run())
    rest = store().profiles.page(index.id, offset=50, limit=50)
    assert rows(at)["latent"].tolist() == [row.latent for row in rest.rows]


@pytest.mark.usefixtures("index")
def test_a_small_corpus_gives_no_verdict() -> None:
    assert set(rows(open_page("search"))["verdict"]) == {""}


def test_verdicts_follow_the_scores(index: LatentIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_scores, "LEAST_VERDICT_TOKENS", index.n_tokens)
    shown = rows(open_page("search"))
    for s_in, s_out, verdict in zip(shown["S_in"], shown["S_out"], shown["verdict"], strict=True):
        if np.isnan(s_in) or np.isnan(s_out):
            assert verdict == ""
        else:
            expected = {(1, 1): "both", (1, 0): "reads", (0, 1): "writes", (0, 0): "neither"}
            assert verdict == expected[int(s_in >= 0.1), int(s_out >= 0.01)]


def test_words_figures_and_order_come_from_the_address(index: LatentIndex) -> None:
    by_density = store().profiles.page(index.id, sort="density", descending=True).rows
    bound = 100 * by_density[4].density
    at = open_page(
        "search",
        search_sort="density, high first",
        search_min_density=repr(bound * (1 - 1e-9)),
    )
    expected = [row.latent for row in by_density if row.density >= by_density[4].density]
    assert rows(at)["latent"].tolist() == expected
    assert at.number_input(key="search_min_density").value == pytest.approx(bound)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search_page", "99999"),
        ("search_page", "-1"),
        ("search_page", "x"),
        ("search_sort", "<script>"),
        ("search_min_s_in", "nan"),
        ("search_min_density", "1e400"),
        ("search_max_density", "-3"),
        ("search_starred", "maybe"),
        ("by", "<b>"),
        ("index", "../x"),
    ],
)
@pytest.mark.usefixtures("index")
def test_odd_parameters_give_way_to_defaults(name: str, value: str) -> None:
    at = open_page("search", **{name: value})
    assert not errors(at)
    assert f"**{D_SAE}** of {D_SAE} latents" in texts(at)


def test_a_label_is_found_by_its_words_and_cannot_act(index: LatentIndex) -> None:
    label = "**loud** <script>alert(1)</script>"
    store().notes.add(index.sae_sha256, 5, "label", label)
    at = open_page("search")
    at.text_input(key="search_words").set_value("LOU scr")
    press(at, "Search")
    assert rows(at)["latent"].tolist() == [5]
    assert rows(at)["label"].tolist() == [label]
    assert rows(at)["found in"].tolist() == ["label"]
    assert "<script>" not in texts(at)
    at.text_input(key="search_words").set_value("nothing-like-this")
    press(at, "Search")
    assert "No latent fits all that is asked for" in texts(at)
    press(at, "Clear")
    assert f"**{D_SAE}** of {D_SAE} latents" in texts(at)
    assert at.text_input(key="search_words").value == ""


def test_starred_and_labelled_latents_can_be_asked_for(index: LatentIndex) -> None:
    store().notes.add(index.sae_sha256, 9, "star", author="me")
    store().notes.add(index.sae_sha256, 3, "label", "three")
    assert rows(open_page("search", search_starred="true"))["latent"].tolist() == [9]
    at = open_page("search", search_labelled="true")
    assert rows(at)["latent"].tolist() == [3]
    assert rows(at)["starred"].tolist() == [False]


@pytest.mark.usefixtures("index")
def test_too_many_words_are_answered_with_a_sentence() -> None:
    at = open_page("search", search_words=" ".join(f"w{n}" for n in range(40)))
    (message,) = errors(at)
    assert "40 words" in message
    assert at.text_input(key="search_words").value


@pytest.mark.usefixtures("index")
def test_a_new_search_begins_at_its_first_page() -> None:
    at = open_page("search", search_page="2")
    assert len(rows(at)) == D_SAE - 50
    at.selectbox(key="search_sort").set_value("latent, high first")
    press(at, "Search")
    assert rows(at)["latent"].tolist()[0] == D_SAE - 1


def test_ticks_fill_the_basket_with_mean_activations_and_empty_it(index: LatentIndex) -> None:
    at = open_page("search", search_sort="density, high first")
    latents = rows(at)["latent"].tolist()
    select(at, "words", rows=[0, 2])
    basket = at.session_state["work"].basket
    assert basket == {n: store().profiles.get(index.id, n).mean for n in (latents[0], latents[2])}
    select(at, "words", rows=[2])
    assert list(at.session_state["work"].basket) == [latents[2]]
    settle(at.button(key="search_steer").click().run())
    assert "What does it do to the text?" in texts(at)


@pytest.mark.usefixtures("index")
def test_a_click_opens_the_page_of_the_latent() -> None:
    at = open_page("search", search_sort="latent, high first")
    select(at, "words", cells=[[1, "promotes"]])
    assert at.query_params["latent"] in (str(D_SAE - 2), [str(D_SAE - 2)])
    assert "Which latent do you look for?" not in texts(at)


@pytest.mark.usefixtures("index")
def test_search_by_meaning_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_meaning, "is_installed", lambda: False)
    at = open_page("search", by="meaning")
    assert "is not installed" in texts(at)
    assert at.code[0].value == f"pip install --no-deps {REQUIREMENT}"


def test_search_by_meaning_ranks_latents_by_the_cosine_of_what_is_known(
    index: LatentIndex, folder: Path, saif_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = TextEmbedder(folder)
    monkeypatch.setattr(search_meaning, "is_installed", lambda: True)
    monkeypatch.setattr(store_tasks, "embedder", lambda: embedder)
    store().notes.add(index.sae_sha256, 11, "label", "tax form river tax form river")
    at = open_page("search", by="meaning")
    assert f"The {D_SAE} latents of words have to be embedded once" in texts(at)
    settle(at.button(key="meaning_embed").click().run())
    job = engine().newest("embed", lambda asked: asked.index_id == index.id)
    assert job is not None
    wait_for(job)
    assert job.error is None
    vectors = np.load(vectors_file(saif_home.resolve(), index.id))
    assert vectors.shape == (D_SAE, 16)
    (query,) = embedder.embed(["tax form river"])
    settle(at.run())
    at.text_input(key="search_meaning").set_value("tax form river")
    press(at, "Search")
    shown = rows(at, "meaning")
    cosines = vectors @ query
    order = [n for n in np.argsort(-cosines, kind="stable").tolist() if cosines[n] > 0][:50]
    assert shown["latent"].tolist() == order
    np.testing.assert_allclose(shown["cosine"], cosines[order], rtol=1e-6)


def test_latents_are_embedded_once_however_often_that_is_asked_for(
    index: LatentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowEmbedder:
        def embed(self, given: list[str]) -> np.ndarray:
            may_go_on.wait(60)
            return np.zeros((len(given), 2), dtype=np.float32)

    may_go_on = threading.Event()
    monkeypatch.setattr(search_meaning, "is_installed", lambda: True)
    monkeypatch.setattr(store_tasks, "embedder", SlowEmbedder)
    monkeypatch.setattr(search_meaning, "embedding_seconds", lambda *_: 70.4)
    pages = [open_page("search", by="meaning") for _ in range(2)]
    assert all("That takes about 70 s here." in texts(at) for at in pages)
    try:
        for at in pages:
            settle(at.button(key="meaning_embed").click().run())
            assert at.button(key="meaning_embed").disabled
        (job,) = (job for job in engine().jobs() if job.kind == "embed")
        assert job.title == "Embed the latents of words"
        assert job.id in [record.id for record in engine().status().running]
        other = settle(AppTest.from_file(str(MAIN), default_timeout=60).run())
        settle(other.sidebar.button(key=f"job_{job.id}").click().run())
        assert f"The {D_SAE} latents of words have to be embedded once" in texts(other)
        assert [button for button in other.button if button.key == "meaning_stop"]
    finally:
        may_go_on.set()
    wait_for(job)
    record = store().jobs.get(job.id)
    assert record is not None
    assert record.state == "done"
    assert job.request.index_id == index.id


def test_what_is_embedded_is_label_promoted_tokens_and_where_it_fires(index: LatentIndex) -> None:
    store().notes.add(index.sae_sha256, 4, "label", "my label")
    latents = range(D_SAE)
    found = store_tasks._texts(store(), index, latents, engine().token_texts)
    row = store().profiles.page(index.id, filters=LatentFilter(latents=(4,))).rows[0]
    profile = store().profiles.get(index.id, 4)
    best = next(example for example in profile.examples if example.kind == 0)
    context = store().profiles.contexts(index.id, [best.context])[best.context]
    (token,) = engine().token_texts([int(context[best.position])])
    assert found[4].startswith(f"my label. {' '.join(row.promotes.split())}. {token.strip()}")
    assert tiny.DEAD_LATENT not in found or ". " not in found[tiny.DEAD_LATENT]


def test_a_text_is_read_token_by_token(index: LatentIndex, tiny_sae_dir: Path) -> None:
    text = f"The old cat sees a dog {PLANTED_WORD}"
    at = open_page("search", by="text", fires_on=text)
    assert "Nothing was read yet" in texts(at)
    press(at, "Read it")
    reading = engine().ask(TextQuestion(str(tiny_sae_dir), text))
    whole = rows(at, "whole")
    assert whole["latent"].tolist() == [latent for latent, _, _ in reading.maxima[:50]]
    assert whole["largest activation"].tolist() == [value for _, value, _ in reading.maxima[:50]]
    last = len(reading.tokens) - 1
    assert PLANTED_LATENT in [latent for latent, _ in reading.latents[last]]
    pills = at.get("button_group")
    (token,) = (group for group in pills if group.key == "fires_on_token")
    settle(token.set_value(last).run())
    shown = rows(at, "token")
    assert shown["latent"].tolist() == [latent for latent, _ in reading.latents[last]]
    assert shown["activation"].tolist() == [value for _, value in reading.latents[last]]
    promotes = store().profiles.page(index.id, filters=LatentFilter(latents=(PLANTED_LATENT,)))
    at_planted = shown["latent"].tolist().index(PLANTED_LATENT)
    assert shown["promotes"].tolist()[at_planted] == promotes.rows[0].promotes


def test_a_text_needs_no_index_and_a_long_one_has_a_slider() -> None:
    at = open_page("search", by="text", fires_on="the old cat " * 30)
    press(at, "Read it")
    assert not errors(at)
    slider = at.slider(key="fires_on_token")
    settle(slider.set_value(slider.max).run())
    assert all(" " in tokens for tokens in rows(at, "token")["promotes"])
    at.text_area(key="fires_on").set_value("two")
    press(at, "Read it")
    assert "No latent fires after the first token" in texts(at)


def test_an_empty_text_is_answered_with_a_sentence() -> None:
    at = open_page("search", by="text")
    press(at, "Read it")
    assert len(errors(at)) == 1


def test_tokens_cannot_act_on_the_page() -> None:
    at = open_page("search", by="text", fires_on="<script>alert(1)</script> **bold** :red[x]")
    press(at, "Read it")
    (html,) = (item.proto.body for item in at.get("html"))
    assert "<script" not in html
    reading = TextReading(
        ("<script>", "\n", " a&b"), (True, False, False), (((3, 1.5),), (), ()), ()
    )
    drawn = ribbon(reading)
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn
    assert "↵" in drawn
    assert "·a&amp;b" in drawn
    assert 'title="3: 1.5"' in drawn
    assert 'title="no latent fires"' in drawn


def test_read_texts_gives_the_mean_of_every_latent_without_the_first_token(
    endless_model: LoadedModel, tiny_sae: LoadedSae
) -> None:
    given = ["The old cat sees a dog", PLANTED_WORD, "one two three"]
    seen: list[tuple[int, int]] = []

    def step(done: int, total: int, _message: str) -> None:
        seen.append((done, total))

    found = read_texts(endless_model, tiny_sae, given, chat=False, step=step)
    dense, lengths = [], []
    for text in given:
        ids = endless_model.encode_prompt(text, chat=False)
        resid = tiny.read_plain(Path(endless_model.id), [text], layer=tiny_sae.layer)
        dense.append(tiny_sae.encode(resid[1:] if len(ids) > 1 else resid).mean(0).numpy())
        lengths.append(len(ids))
    assert lengths[1] == 1
    np.testing.assert_allclose(found.dense(), np.stack(dense), atol=1e-4)
    assert found.groups.tolist() == [0, 1, 2]
    assert seen[-1] == (3, 3)


def test_a_planted_word_is_what_tells_two_sets_apart() -> None:
    contents = tiny.contents(24, seed=3)
    at = open_page("search", by="contrast")
    assert "Nothing was compared yet" in texts(at)
    at.text_area(key="contrast_first").set_value(
        "\n".join(f"{text} {PLANTED_WORD}" for text in contents[:12])
    )
    second = "\n".join(contents[12:]).encode()
    at.file_uploader(key="contrast_second_file").upload("mine.txt", second, "text/plain")
    press(at, "Compare the sets")
    job = next(job for job in engine().jobs() if job.kind == "contrast")
    wait_for(job)
    settle(at.run())
    assert not errors(at)
    found: ContrastReport = job.result()
    best = [latent.latent for latent in found.best]
    shown = rows(at, "contrast")
    assert shown["latent"].tolist() == best
    assert shown["d"].tolist() == [latent.effect for latent in found.best]
    assert shown["p"].tolist() == [latent.p for latent in found.best]
    planted = shown[shown["latent"] == PLANTED_LATENT]
    assert planted["AUC"].tolist() == [1.0]
    assert planted["d"].item() > 1
    said = texts(at)
    assert "chosen on 12 texts" in said
    assert "measured on the 12 others" in said
    assert f"0.05 / {len(found.best)} = {0.05 / len(found.best):.2g}" in said
    assert "No p can be that small" not in said  # comb(12, 6) = 924 ways, 1 / 924 < 0.0025
    again = open_page("search", by="contrast", contrast=job.id)
    assert rows(again, "contrast")["latent"].tolist() == best


def test_so_few_texts_that_no_p_can_pass_are_said_to_be_too_few() -> None:
    at = open_page("search", by="contrast")
    for name, texts_given in (("first", tiny.contents(8)), ("second", tiny.contents(8, seed=9))):
        at.text_area(key=f"contrast_{name}").set_value("\n".join(texts_given))
    press(at, "Compare the sets")
    wait_for(next(job for job in engine().jobs() if job.kind == "contrast"))
    settle(at.run())
    assert "8 texts can be parted in 70 ways only" in texts(at)


def test_too_few_texts_are_answered_with_a_sentence() -> None:
    at = open_page("search", by="contrast")
    press(at, "Compare the sets")
    (message,) = errors(at)
    assert "empty" in message
    for name in ("first", "second"):
        at.text_area(key=f"contrast_{name}").set_value("one\ntwo")
    press(at, "Compare the sets")
    wait_for(next(job for job in engine().jobs() if job.kind == "contrast"))
    settle(at.run())
    (message,) = errors(at)
    assert "at least 4 of each" in message


def test_an_unknown_comparison_is_answered_with_a_sentence() -> None:
    at = open_page("search", by="contrast", contrast="<b>")
    assert "is not known here" in texts(at)


def test_a_word_that_is_found_in_tokens_names_the_token(index: LatentIndex) -> None:
    at = open_page("search", search_words=tiny.PLANTED_ANSWER)
    row = next(n for n, one in enumerate(rows(at)["latent"]) if one == PLANTED_LATENT)
    assert f"tokens: ·{tiny.PLANTED_ANSWER}" in rows(at)["found in"].tolist()[row]
    assert store().profiles.page(index.id).n_total


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ou", [" oui", "Où"]),
        ("o", []),
        ("CAT x", [" cats"]),
        ("", []),
    ],
)
def test_the_tokens_that_match_are_those_that_the_search_finds(
    query: str, found: list[str]
) -> None:
    assert matching_tokens(query, [" oui", "Où", " cats", "scat"]) == found


def test_what_a_newcomer_cannot_know_is_explained(index: LatentIndex) -> None:
    assert index.n_tokens
    at = open_page("search")
    check_explained(
        at,
        latent="latent",
        promote="promotes",
        density="density|Density from|Density up to|Order",
        S_in="S_in|S_in from|Order",
        S_out="S_out|S_out from|Order",
        latent_activation="maximum",
    )
    at = open_page("search", by="text", fires_on=f"the old {PLANTED_WORD} cat")
    check_explained(
        press(at, "Read it"),
        chat_template="As a chat message",
        token="Token|on token",
        latent_activation="largest activation",
    )
    at = open_page("search", by="contrast")
    for name, word in (("first", PLANTED_WORD), ("second", "dog")):
        at.text_area(key=f"contrast_{name}").set_value("\n".join([f"the {word} cat"] * 4))
    press(at, "Compare the sets")
    wait_for(next(job for job in engine().jobs() if job.kind == "contrast"))
    check_explained(settle(at.run()), chat_template="As chat messages", d="d", p="p")
