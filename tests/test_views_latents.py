from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import engine, store
from app.dashboard.work import FinishedRanking, Work
from app.presentation.figures import number_words
from app.presentation.latents import firing_words, read_examples
from saif_core.records.ranking import RankingRequest
from tests import tiny
from tests.explained import check_explained
from tests.pages import MAIN, errors, index_words, open_page, planted_work, settle, texts
from tests.tiny import PLANTED_LATENT

pytestmark = pytest.mark.usefixtures("tiny_process")


@pytest.fixture
def work(tiny_sae_dir: Path) -> Work:
    return planted_work(str(tiny_sae_dir))


def in_hand(at: AppTest) -> Work:
    found: Work = at.session_state["work"]
    return found


def table_key(at: AppTest) -> str:
    return str(at.session_state["latent_table_seen"][0])


def tick(at: AppTest, rows: list[int]) -> AppTest:
    selection = {"rows": rows, "columns": [], "cells": []}
    at.session_state[table_key(at)] = {"selection": selection}
    return settle(at.run())


def test_without_a_ranking_the_page_says_what_to_do() -> None:
    at = open_page("latents")
    assert "No ranking is in hand yet" in texts(at)
    assert not errors(at)


def test_the_sentence_counts_what_fires_with_and_not_without(work: Work) -> None:
    at = open_page("latents", work=work)
    assert work.ranking is not None
    fire = "latent fires" if work.ranking.n_selective == 1 else "latents fire"
    assert "Of 64 latents at layer 1: The two best, latents 7 and" in texts(at)
    assert f"Of all 64, {work.ranking.n_selective} {fire} on at least 80% with it" in texts(at)
    assert work.ranking.n_selective >= 1
    assert "6 pairs · read at the last prompt token · scored by sensitivity" in texts(at)


def test_the_table_lists_the_planted_latent_first(work: Work) -> None:
    at = open_page("latents", work=work)
    table = at.dataframe[0].value
    assert table["latent"].iloc[0] == PLANTED_LATENT
    assert table["with"].iloc[0] == 100
    assert table["without"].iloc[0] == 0.0
    assert "oui" in table["promotes"].iloc[0]
    assert table["score"].is_monotonic_decreasing


def test_what_latents_fire_on_stands_beside_what_they_promote(work: Work, tmp_path: Path) -> None:
    at = open_page("latents", work=work)
    assert "fires on" not in at.dataframe[0].value
    index = index_words(work.sae_id, tmp_path)
    settle(at.run())
    table = at.dataframe[0].value
    first = list(zip(table["latent"], table["fires on"], strict=True))[:60]
    for latent, shown in first:
        profile = store().profiles.get(index.id, latent)
        examples = read_examples(store(), index, profile, engine().token_texts)
        strongest = [word.strip() for word in dict.fromkeys(firing_words(examples))]
        assert shown == " · ".join(strongest[:3])
    assert any(table["fires on"])


def test_ticking_a_row_puts_its_latent_in_the_basket_with_its_mean(work: Work) -> None:
    at = tick(open_page("latents", work=work), [0])
    score = work.latent_score(PLANTED_LATENT)
    assert score is not None
    assert in_hand(at).basket == {PLANTED_LATENT: score.mean}
    assert f"`{PLANTED_LATENT}` {number_words(round(score.mean, 6))}" in texts(at)
    assert at.query_params["basket"] == f"{PLANTED_LATENT}:{score.mean:.12g}"
    assert in_hand(tick(at, [])).basket == {}


def test_removing_a_latent_in_the_sidebar_unticks_its_row(work: Work) -> None:
    at = tick(open_page("latents", work=work), [0, 1])
    settle(at.button(key=f"basket_remove_{PLANTED_LATENT}").click().run())
    assert at.session_state[table_key(at)]["selection"]["rows"] == [1]
    assert PLANTED_LATENT not in in_hand(at).basket
    assert len(in_hand(at).basket) == 1


def test_a_basket_from_elsewhere_is_ticked(work: Work) -> None:
    work.add_latent(PLANTED_LATENT, 2.5)
    at = open_page("latents", work=work)
    assert at.session_state[table_key(at)]["selection"]["rows"] == [0]
    assert in_hand(at).basket == {PLANTED_LATENT: 2.5}


def test_clicking_a_row_opens_the_page_of_its_latent(work: Work) -> None:
    at = open_page("latents", work=work)
    selection = {"rows": [], "columns": [], "cells": [(0, "promotes")]}
    at.session_state[table_key(at)] = {"selection": selection}
    settle(at.run())
    assert f"What is latent {PLANTED_LATENT}?" in texts(at)
    assert at.query_params["latent"] == str(PLANTED_LATENT)


def test_steering_takes_the_top_k_that_fire_to_compare(work: Work) -> None:
    work.add_latent(3, 9.0)
    at = open_page("latents", work=work)
    settle(at.number_input(key="k").set_value(2).run())
    button = at.button(key="steer_top")
    assert button.label == "Steer with the top 2"
    settle(button.click().run())
    assert work.ranking is not None
    best = [latent for latent in work.ranking.latents[:2] if latent.mean > 0]
    assert in_hand(at).basket == {latent.index: latent.mean for latent in best}
    assert at.title[0].value != "Which latents carry it?"


def test_the_cut_starts_at_what_the_ranking_asked_for_or_at_what_the_url_says(work: Work) -> None:
    assert open_page("latents", work=work).number_input(key="k").value == 1
    assert open_page("latents", work=work, k="3").number_input(key="k").value == 3


def test_a_finished_job_in_the_url_brings_its_ranking(work: Work) -> None:
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.query_params["job"] = work.job_id
    settle(at.run())
    settle(at.switch_page("views/latents.py").run())
    assert "Of 64 latents" in texts(at)


def test_two_rankings_are_compared_by_what_their_tops_share(work: Work, tiny_sae_dir: Path) -> None:
    request = RankingRequest(
        sae_id=str(tiny_sae_dir),
        instruction="other",
        pairs=tiny.planted_pairs(4, seed=1),
        read="last-token",
        top=1,
    )
    job = engine().submit(request)
    work.finished.insert(0, FinishedRanking(job.id, request, job.result(timeout=60)))
    at = open_page("latents", work=work)
    table = at.dataframe[1].value
    assert "share among their top 1" in texts(at)
    assert table.drop(columns="ranking").to_numpy().tolist() == [[1, 1], [1, 1]]


def test_what_a_newcomer_cannot_know_is_explained(work: Work) -> None:
    check_explained(
        open_page("latents", work=work),
        latent="latent|The latents",
        score="score|Scores in order",
        promote="promotes",
        ranking="Top k",
    )
