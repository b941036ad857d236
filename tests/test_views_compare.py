import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.state import Work, engine, store
from saif_core.jobs import Job
from saif_core.records import GenerationRequest
from tests import saved
from tests.pages import errors, open_page, planted_work, settle, texts, wait_for
from tests.tiny import PLANTED_ANSWER, PLANTED_LATENT

pytestmark = pytest.mark.usefixtures("tiny_process")


@pytest.fixture
def steering_work(tiny_sae_dir: Path) -> Work:
    """A ranking in hand and its best latent, the planted one, in the basket."""
    work = planted_work(str(tiny_sae_dir))
    score = work.latent_score(PLANTED_LATENT)
    assert score is not None
    work.add_latent(PLANTED_LATENT, score.mean)
    return work


def open_compare(work: Work, **query: str) -> AppTest:
    at = open_page("compare", work=work, **query)
    at.text_area(key="compare_prompt").set_value("The old cat sees the house.")
    at.number_input(key="compare_max_new_tokens").set_value(8)
    return settle(at.run())


def generate(at: AppTest) -> Job:
    settle(at.button(key="compare_generate").click().run())
    job = engine().job(at.session_state["compare_run"])
    assert job is not None
    return job


def generate_and_wait(at: AppTest) -> Job:
    job = generate(at)
    wait_for(job)
    settle(at.run())
    return job


def test_without_latents_the_page_says_where_to_choose_them() -> None:
    at = open_page("compare")
    assert "No latents are chosen yet" in texts(at)
    assert at.button(key="compare_generate").disabled


def test_the_best_latents_of_a_ranking_can_be_taken(tiny_sae_dir: Path) -> None:
    at = open_page("compare", work=planted_work(str(tiny_sae_dir)))
    settle(at.button(key="compare_take_top").click().run())
    assert list(at.session_state["work"].basket) == [PLANTED_LATENT]


def test_generate_is_off_until_there_is_a_prompt(steering_work: Work) -> None:
    at = open_compare(steering_work)
    assert not at.button(key="compare_generate").disabled
    settle(at.text_area(key="compare_prompt").set_value("  ").run())
    assert at.button(key="compare_generate").disabled


def test_texts_are_written_side_by_side_with_the_differences_marked(steering_work: Work) -> None:
    at = open_compare(steering_work)
    job = generate_and_wait(at)
    unsteered, steered = job.result().generations
    page = texts(at)
    assert PLANTED_ANSWER in steered.text
    assert PLANTED_ANSWER not in unsteered.text
    assert unsteered.text in page
    assert "<mark" in page
    assert "under the unsteered model" in page
    assert "8 tokens · cut at the token limit" in page
    assert "**none**" in page or "**could not judge**" in page
    assert not errors(at)


def test_an_address_with_a_run_attaches_to_it_again(steering_work: Work) -> None:
    job = generate_and_wait(open_compare(steering_work))
    at = open_page("compare", run=job.id)
    assert job.result().generations[0].text in texts(at)


def test_a_run_of_an_earlier_process_is_shown_from_the_store(
    steering_work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = generate_and_wait(open_compare(steering_work))
    monkeypatch.setattr(engine(), "_jobs", {})
    at = open_page("compare", run=job.id)
    assert job.result().generations[0].text in texts(at)


def test_an_unknown_run_is_answered_with_a_sentence() -> None:
    assert "not known here" in texts(open_page("compare", run="<b>nothing</b>"))


def test_a_running_job_shows_its_texts_as_far_as_they_are_and_stops(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.segmented_control(key="compare_source").set_value("shipped")
    settle(at.run())
    at.number_input(key="compare_n_shipped").set_value(32)
    at.number_input(key="compare_max_new_tokens").set_value(512)
    settle(at.run())
    job = generate(at)
    while not job.events():
        time.sleep(0.01)
    settle(at.run())
    assert not job.finished()
    assert f"**{'unsteered'}**" in texts(at)
    settle(at.button(key="compare_stop").click().run())
    wait_for(job)
    assert job.record.state == "cancelled"
    settle(at.run())
    assert "Stopped; the texts below are as far as they came" in texts(at)
    assert job.events()[-1].text in texts(at)


def test_several_prompts_are_answered_one_by_one(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.segmented_control(key="compare_source").set_value("lines")
    settle(at.run())
    at.text_area(key="compare_lines").set_value("The dog\n\n  The <b>house</b>  \n")
    settle(at.run())
    job = generate_and_wait(at)
    assert job.request.prompts == ("The dog", "The <b>house</b>")
    assert "Texts that follow the instruction." in texts(at)
    assert len(at.get("html")) == 4


def test_settings_end_up_in_the_request(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.slider(key="compare_strength").set_value(0.75)
    at.selectbox(key="compare_scope").set_value("all")
    at.selectbox(key="compare_sampling").set_value("sampled")
    at.toggle(key="compare_chat").set_value(False)
    settle(at.run())
    at.number_input(key="compare_temperature").set_value(0.9)
    at.number_input(key="compare_seed").set_value(11)
    settle(at.run())
    assert generate_and_wait(at).request == GenerationRequest(
        sae_id=steering_work.sae_id,
        prompts=("The old cat sees the house.",),
        latents=steering_work.basket_latents(),
        strength=0.75,
        scope="all",
        chat=False,
        max_new_tokens=8,
        temperature=0.9,
        seed=11,
        instruction="translate-to-french",
        read="last-token",
        selector="sensitivity",
    )
    settle(at.slider(key="compare_strength").set_value(2.5).run())
    assert "have changed since" in texts(at)


def test_settings_outlive_a_visit_to_another_page(steering_work: Work) -> None:
    at = open_compare(steering_work)
    settle(at.slider(key="compare_strength").set_value(1.5).run())
    settle(at.switch_page("views/sessions.py").run())
    settle(at.switch_page("views/compare.py").run())
    assert at.slider(key="compare_strength").value == 1.5
    assert at.text_area(key="compare_prompt").value == "The old cat sees the house."
    assert at.number_input(key="compare_max_new_tokens").value == 8


def test_the_size_of_the_vector_follows_the_dial(steering_work: Work) -> None:
    at = open_compare(steering_work)
    request = generate_and_wait(at).request
    norm, share = engine().vector_size(request)
    assert f"raw norm {norm:,.1f} · {share:.0%} of the residual norm" in texts(at)
    settle(at.slider(key="compare_strength").set_value(2.0).run())
    assert f"raw norm {2 * norm:,.1f} · {2 * share:.0%} of the residual norm" in texts(at)


def test_a_strength_beyond_the_dial_is_kept(steering_work: Work) -> None:
    steering_work.strength = 4.0
    at = open_compare(steering_work)
    assert at.slider(key="compare_strength").value == 4.0
    assert at.session_state["work"].strength == 4.0


def test_a_coefficient_is_edited_and_a_row_deleted(steering_work: Work) -> None:
    steering_work.add_latent(3, 1.0)
    at = open_compare(steering_work)
    version = at.session_state["compare_basket_version"]
    at.session_state[f"compare_basket_{version}"] = {
        "edited_rows": {1: {"coefficient": 0.5}},
        "added_rows": [],
        "deleted_rows": [0],
    }
    settle(at.run())
    assert at.session_state["work"].basket == {3: 0.5}
    settle(at.run())
    assert at.session_state["work"].basket == {3: 0.5}


def test_a_latent_removed_in_the_sidebar_leaves_the_table(steering_work: Work) -> None:
    steering_work.add_latent(3, 1.0)
    at = open_compare(steering_work)
    settle(at.button(key="basket_remove_3").click().run())
    assert list(at.session_state["work"].basket) == [PLANTED_LATENT]
    assert at.session_state["compare_basket_table"]["latent"] == [PLANTED_LATENT]


def test_work_is_saved_and_saved_again_as_the_same_session(steering_work: Work) -> None:
    at = open_compare(steering_work)
    job = generate_and_wait(at)
    at.text_input(key="save_name").set_value("My <b>session</b>")
    at.text_area(key="save_notes").set_value("a note")
    save = next(button for button in at.button if button.label == "Save as new")
    settle(save.click().run())
    (summary,) = store().sessions.list()
    session = store().sessions.get(summary.id)
    assert session.name == "My <b>session</b>"
    assert session.notes == "a note"
    assert session.result == job.result()
    assert session.ranking == steering_work.ranking
    assert session.instruction is not None
    settle(at.run())
    at.text_area(key="save_notes").set_value("another")
    update = next(button for button in at.button if button.label.startswith("Save changes"))
    settle(update.click().run())
    (summary,) = store().sessions.list()
    assert store().sessions.get(summary.id).notes == "another"


def test_an_address_opens_a_saved_session(tiny_sae_dir: Path) -> None:
    session = store().sessions.save(saved.session(sae=str(tiny_sae_dir)))
    at = open_page("compare", open=session.id)
    assert at.session_state["work"].basket == {7: 2.5, 3: 1.5}
    assert at.slider(key="compare_strength").value == 0.8
    assert at.text_area(key="compare_prompt").value == "The mayor <i>spoke</i>."
    page = texts(at)
    assert "Hello &amp; &lt;b&gt;there&lt;/b&gt;." in page
    assert "<b>there" not in page
    assert "**strict**" in page


def test_a_job_that_failed_says_why(steering_work: Work) -> None:
    steering_work.clear()
    steering_work.add_latent(9999, 1.0)
    at = open_compare(steering_work)
    generate_and_wait(at)
    assert any("has latents 0 to 63" in message for message in errors(at))
