from pathlib import Path

import pytest

from tests.pages import errors, open_page, planted_work, settle, texts
from tests.tiny import PLANTED_LATENT

pytestmark = pytest.mark.usefixtures("tiny_process")


def test_without_a_latent_the_page_asks_for_one() -> None:
    at = open_page("latent")
    assert "No latent is chosen yet" in texts(at)
    at.number_input(key="latent_number").set_value(PLANTED_LATENT)
    form = next(button for button in at.button if button.label == "Show this latent")
    settle(form.click().run())
    assert f"What is latent {PLANTED_LATENT}?" in texts(at)


def test_an_address_opens_a_latent(tiny_sae_dir: Path) -> None:
    at = open_page("latent", sae=str(tiny_sae_dir), latent=str(PLANTED_LATENT))
    assert f"What is latent {PLANTED_LATENT}?" in texts(at)
    assert "promotes oui" in texts(at)
    assert "No ranking is in hand" in texts(at)
    assert not errors(at)


@pytest.mark.parametrize("latent", ["x", "-1", "1e3", "9" * 12, "<b>"])
def test_an_address_without_a_number_is_answered_with_a_sentence(latent: str) -> None:
    at = open_page("latent", latent=latent)
    assert errors(at) == ["The address names no latent number; choose one here."]


def test_a_latent_that_the_sae_lacks_is_answered_with_a_sentence() -> None:
    (message,) = errors(open_page("latent", latent="99999"))
    assert "has latents 0 to 63" in message


def test_activations_with_and_without_the_instruction_are_shown(tiny_sae_dir: Path) -> None:
    at = open_page("latent", work=planted_work(str(tiny_sae_dir)), latent=str(PLANTED_LATENT))
    assert "With the instruction it fires on 6 of 6 pairs" in texts(at)
    assert "without it fires on 0 of 6 pairs" in texts(at)
    assert len(at.get("vega_lite_chart")) == 4


def test_a_latent_goes_into_the_basket_with_its_mean_and_out_again(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    at = open_page("latent", work=work, latent=str(PLANTED_LATENT))
    settle(at.button(key="latent_add").click().run())
    score = work.latent_score(PLANTED_LATENT)
    assert score is not None
    assert at.session_state["work"].basket == {PLANTED_LATENT: score.mean}
    settle(at.button(key="latent_remove").click().run())
    assert at.session_state["work"].basket == {}


def test_steering_with_one_latent_replaces_the_basket(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    work.add_latent(3, 1.0)
    at = open_page("latent", work=work, latent=str(PLANTED_LATENT))
    settle(at.button(key="latent_steer").click().run())
    assert list(at.session_state["work"].basket) == [PLANTED_LATENT]
    assert "What does it do to the text?" in texts(at)


def test_next_and_previous_follow_the_score(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    assert work.ranking is not None
    first, second = (score.index for score in work.ranking.latents[:2])
    at = open_page("latent", work=work)
    assert f"What is latent {first}?" in texts(at)
    assert at.button(key="latent_previous").disabled
    settle(at.button(key="latent_next").click().run())
    assert f"What is latent {second}?" in texts(at)
    settle(at.button(key="latent_previous").click().run())
    assert f"What is latent {first}?" in texts(at)


def test_neighbours_are_links_with_the_sae_and_the_latent() -> None:
    at = open_page("latent", latent=str(PLANTED_LATENT))
    links = [link.proto for link in at.get("page_link") if "(" in link.proto.label]
    assert len(links) == 10
    assert all(f"latent={link.label.split()[0]}" in link.query_string for link in links)
    assert all("sae=" in link.query_string for link in links)
