"""What a person has in hand: kept over a reload, measured as it is, brought back by one click."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from streamlit.testing.v1 import AppTest

from app.dashboard import kept_work
from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from saif_core.engine.job import Job
from saif_core.errors import PromptPairError, StorageError
from saif_core.inputs.latent_lists import format_latents
from saif_core.records.evaluation import Candidate
from saif_core.records.jobs import JobRecord
from saif_core.records.prompts import Instruction, PromptPair, Turn, Wording
from saif_core.records.ranking import RankingRequest
from saif_core.records.saes import layers_of
from storage import Store, work_store
from storage.tables import KeptWorkRow
from tests import saved
from tests.compare_page import (
    add_arm,
    form_of,
    generate_and_wait,
    open_compare,
    request_of,
    set_in,
)
from tests.compare_page import steering_work as steering_work
from tests.pages import MAIN, errors, open_page, planted_work, settle, texts, wait_for
from tests.test_views_evaluate import save as save_evaluation
from tests.tiny import PLANTED_ANSWER, PLANTED_LATENT, PLANTED_WORD

pytestmark = pytest.mark.usefixtures("tiny_process")


def parameter(at: AppTest, name: str) -> str:
    """A parameter of the address; "" for none."""
    value = at.query_params.get(name, "")
    return str(value if isinstance(value, str) else value[0])


def reload(at: AppTest, page: str) -> AppTest:
    """A new browser session at the same address."""
    again = AppTest.from_file(str(MAIN), default_timeout=60)
    for name in at.query_params:
        again.query_params[name] = parameter(at, name)
    settle(again.run())
    settle(again.switch_page(f"views/{page}.py").run())
    if "open" in at.query_params:
        again.query_params["open"] = parameter(at, "open")
        settle(again.run())
    return again


# --- over a reload


def test_prompts_arms_and_settings_survive_a_reload(steering_work: Work) -> None:
    at = open_compare(steering_work)
    add_arm(at, "prompted")
    arm = add_arm(at, "random")
    set_in(at, "toggle", arm, "on_dial", False)
    set_in(at, "number_input", arm, "strength", -0.5)
    at.number_input(key="compare_temperature").set_value(0.7)
    settle(at.slider(key="compare_strength").set_value(0.75).run())
    before = request_of(at)
    again = reload(at, "compare")
    assert request_of(again) == replace(
        before,
        arms=tuple(
            replace(
                one,
                edits=tuple(
                    replace(edit, latents=request_of(again).arms[1].edits[0].latents)
                    for edit in one.edits
                ),
            )
            for one in before.arms
        ),
    )
    assert again.text_area(key="compare_prompt").value == "The old cat sees the house."
    assert not errors(again)


def test_baskets_of_other_saes_and_own_instructions_survive_a_reload() -> None:
    sae_id = engine().saes()[0].id
    work = Work(
        sae_id=sae_id,
        uploaded={saved.INSTRUCTION.name: saved.INSTRUCTION},
        baskets={sae_id: {3: 1.0}, "other": {5: 2.5}},
    )
    again: Work = reload(open_page("compare", work=work), "compare").session_state["work"]
    assert again.baskets == {sae_id: {3: 1.0}, "other": {5: 2.5}}
    assert again.uploaded == {saved.INSTRUCTION.name: saved.INSTRUCTION}


def test_an_opened_session_comes_back_as_it_was_changed(tiny_sae_dir: Path) -> None:
    kept = store().sessions.save(saved.session(sae=str(tiny_sae_dir)))
    at = open_page("compare", open=kept.id)
    settle(at.text_area(key="compare_prompt").set_value("Changed since.").run())
    again = reload(at, "compare")
    assert again.text_area(key="compare_prompt").value == "Changed since."
    assert kept.name in texts(again)


def test_the_form_of_an_evaluation_survives_a_reload(steering_work: Work) -> None:
    at = open_page("evaluate", work=steering_work)
    at.text_input(key="evaluation_strengths").set_value("0.75, 1")
    at.multiselect(key="evaluation_sources").set_value(["basket", "mean_difference"])
    at.multiselect(key="evaluation_controls").set_value(["flipped"])
    at.number_input(key="evaluation_max_new_tokens").set_value(9)
    at.segmented_control(key="evaluation_position").set_value("before")
    at.text_input(key="evaluation_layers").set_value("")
    settle(at.run())
    again = reload(at, "evaluate")
    assert again.text_input(key="evaluation_strengths").value == "0.75, 1"
    assert again.multiselect(key="evaluation_sources").value == ["basket", "mean_difference"]
    assert again.multiselect(key="evaluation_controls").value == ["flipped"]
    assert again.number_input(key="evaluation_max_new_tokens").value == 9
    assert again.segmented_control(key="evaluation_position").value == "before"
    assert not errors(again)


def test_nothing_is_kept_before_there_is_something() -> None:
    at = open_page("compare")
    settle(at.switch_page("views/evaluate.py").run())
    assert "work" not in at.query_params


@pytest.mark.parametrize("work_id", ["A" * 22, "<b>", "x", "../../etc/passwd"])
def test_an_id_that_names_nothing_begins_anew(work_id: str) -> None:
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.query_params["work"] = work_id
    settle(at.run())
    settle(at.switch_page("views/compare.py").run())
    assert not errors(at)
    assert parameter(at, "work") in ("", work_id)


def test_ids_cannot_be_guessed_and_differ(steering_work: Work) -> None:
    ids = {parameter(open_compare(steering_work), "work") for _ in range(2)}
    assert len(ids) == 2
    assert all(kept_work._ID.fullmatch(one) for one in ids)


def test_work_that_nobody_can_read_is_left_aside(steering_work: Work) -> None:
    at = open_compare(steering_work)
    work_id = parameter(at, "work")
    store().work.put(work_id, {"compare": {"prompt": 5}, "work": {"baskets": 3}, "evaluate": [1]})
    again = reload(at, "compare")
    assert not errors(again)
    settle(again.switch_page("views/evaluate.py").run())
    assert not errors(again)


# --- bounds of the store


def work_count(kept: Store) -> int:
    with kept._database.transaction("Counting") as db:
        return db.scalar(select(func.count()).select_from(KeptWorkRow)) or 0


def age(kept: Store, work_id: str, days: float) -> None:
    with kept._database.transaction("Ageing", write=True) as db:
        db.execute(
            update(KeptWorkRow)
            .where(KeptWorkRow.id == work_id)
            .values(used_at=int(time.time() - days * 86_400))
        )


def test_kept_work_is_bounded_in_size_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_store, "MOST_KEPT", 3)
    for number in range(6):
        store().work.put(str(number), {"n": number})
        age(store(), str(number), 1 - number / 10)
    store().work.put("last", {})
    assert work_count(store()) <= 4
    assert store().work.get("5") == {"n": 5}
    assert store().work.get("0") is None
    with pytest.raises(StorageError, match="at most 2 MB"):
        store().work.put("large", {"text": "x" * work_store.MOST_BYTES})


def test_kept_work_expires_unless_it_is_used() -> None:
    for work_id, days in (("old", 31), ("used", 20)):
        store().work.put(work_id, {"a": 1})
        age(store(), work_id, days)
    assert store().work.get("old") is None
    assert store().work.get("used") == {"a": 1}
    age(store(), "old", 31)
    store().work.put("new", {})
    assert work_count(store()) == 2


def test_a_part_that_is_too_large_is_left_out_and_told(
    steering_work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_store, "MOST_BYTES", 4000)
    at = open_compare(steering_work)
    settle(at.text_area(key="compare_prompt").set_value("word " * 1200).run())
    assert any("Too large to survive a reload" in toast.value for toast in at.toast)


# --- one click back


def test_a_basket_that_was_replaced_comes_back_with_its_settings(steering_work: Work) -> None:
    evaluation = save_evaluation()
    at = open_compare(steering_work)
    settle(at.slider(key="compare_strength").set_value(1.5).run())
    before, settings = dict(at.session_state["work"].basket), form_of(at).settings()
    settle(at.switch_page("views/evaluate.py").run())
    at.query_params["evaluation"] = evaluation.id
    settle(at.run())
    settle(at.button(key="evaluation_use_cell").click().run())
    settle(at.switch_page("views/compare.py").run())
    work = at.session_state["work"]
    assert work.basket != before
    assert at.slider(key="compare_strength").value != 1.5
    settle(at.button(key="compare_undo").click().run())
    assert work.basket == before
    assert at.slider(key="compare_strength").value == 1.5
    assert form_of(at).settings() == settings
    assert "compare_undo" not in {button.key for button in at.button}


def test_a_cleared_basket_comes_back(steering_work: Work) -> None:
    at = open_compare(steering_work)
    settle(at.button(key="basket_clear").click().run())
    assert not at.session_state["work"].basket
    settle(at.button(key="compare_undo").click().run())
    assert list(at.session_state["work"].basket) == [PLANTED_LATENT]


def test_what_latents_promote_is_shown_without_a_ranking(steering_work: Work) -> None:
    at = open_compare(steering_work)
    generate_and_wait(at)
    at.session_state["work"].ranking = at.session_state["work"].ranking_request = None
    at.session_state["work"].job_id = ""
    settle(at.run())
    (promoted,) = at.session_state["compare_basket_table"]["promotes"]
    assert PLANTED_ANSWER in promoted


# --- chats and pairs


def pirate_work(sae_id: str, *, whole: bool = True) -> Work:
    """Work with a ranking of a person's own pairs."""
    pairs = tuple(
        PromptPair(f"The cat {n}. {PLANTED_WORD}", f"The cat {n}.", f"The cat {n}.", PLANTED_WORD)
        for n in range(6)
    )
    if not whole:
        pairs = tuple(replace(pair, content="", instruction="") for pair in pairs)
    request = RankingRequest(sae_id, "pirate", pairs, read="last-token", top=1)
    job = engine().submit(request)
    work = Work(sae_id=sae_id)
    work.keep_ranking(job.id, request, job.result(timeout=60))
    return work


def test_an_arm_that_wrote_nothing_is_told_whose_history_it_goes_on_with(
    steering_work: Work,
) -> None:
    at = open_compare(steering_work)
    first = generate_and_wait(at).result().generations
    assert "wrote none of the texts above" not in texts(at)
    add_arm(at, "random")
    page = texts(at)
    assert "wrote none of the texts above" in page
    assert "random" in page.split("wrote none")[0].rsplit("\n", 1)[-1]
    at.text_input(key="compare_message").set_value("And now?")
    settle(next(button for button in at.button if button.label == "Send").click().run())
    job = engine().job(at.session_state["compare_run"])
    assert job is not None
    wait_for(job)
    assert job.request.histories[2][1] == Turn("assistant", first[0].text)


def test_the_prompted_arm_is_told_what_own_pairs_say(tiny_sae_dir: Path) -> None:
    at = open_page("compare", work=pirate_work(str(tiny_sae_dir)))
    assert add_arm(at, "prompted").arm.instruction == PLANTED_WORD


# --- what is measured


def evaluated(at: AppTest) -> object:
    button = at.button(key="evaluation_measure_button")
    settle(button.click().run())
    job = engine().job(at.session_state["evaluation_run"])
    assert job is not None
    job.cancel()
    return job.request


def test_own_pairs_are_measured_once_an_evaluator_is_chosen(tiny_sae_dir: Path) -> None:
    at = open_page("evaluate", work=pirate_work(str(tiny_sae_dir)))
    assert at.segmented_control(key="evaluation_measured").value == "pairs"
    assert "Choose how an answer is judged" in texts(at)
    assert at.button(key="evaluation_measure_button").disabled
    assert "says below why" in texts(at)
    settle(at.selectbox(key="evaluation_own_evaluator").set_value("question").run())
    assert not errors(at)
    request = evaluated(at)
    assert request.instruction.name == "pirate"  # type: ignore[attr-defined]
    assert request.instruction.evaluator == "question"  # type: ignore[attr-defined]
    assert request.rank_wordings == (PLANTED_WORD,)  # type: ignore[attr-defined]
    assert request.test_contents[-1] == "The cat 5."  # type: ignore[attr-defined]


def test_own_pairs_without_parts_say_why_they_cannot_be_measured(tiny_sae_dir: Path) -> None:
    at = open_page("evaluate", work=pirate_work(str(tiny_sae_dir), whole=False))
    (message,) = errors(at)
    assert "6 of 6 do not say which part is the content" in message
    assert at.button(key="evaluation_measure_button").disabled
    settle(at.segmented_control(key="evaluation_measured").set_value("list").run())
    assert not errors(at)
    assert not at.button(key="evaluation_measure_button").disabled


def test_an_instruction_without_an_evaluator_is_measured_once_one_is_chosen() -> None:
    said = Instruction("pirate", "", "", {}, (Wording("Answer as a pirate."),))
    sleepy = replace(said, name="sleepy", wordings=(Wording("Answer as if asleep."),))
    uploaded = {"pirate": said, "sleepy": sleepy}
    work = Work(sae_id=engine().saes()[0].id, instruction="pirate", uploaded=uploaded)
    at = open_page("evaluate", work=work)
    assert at.button(key="evaluation_measure_button").disabled
    (judge,) = [box for box in at.selectbox if box.label == "An answer follows it if"]
    settle(judge.set_value("question").run())
    assert not errors(at)
    request = evaluated(at)
    assert request.instruction == replace(said, evaluator="question")  # type: ignore[attr-defined]
    # The next instruction is asked anew.
    settle(at.selectbox(key="evaluation_instruction").set_value("sleepy").run())
    assert at.button(key="evaluation_measure_button").disabled


def test_pairs_that_are_gone_are_not_measured_as_something_else() -> None:
    work = Work(sae_id=engine().saes()[0].id, instruction="pirate")
    assert "not loaded any more" in texts(open_page("evaluate", work=work))


def test_the_sae_of_the_sidebar_is_the_one_that_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = engine().saes()[0]
    lower = replace(info, id="lower", layer=0)
    monkeypatch.setattr(engine(), "saes", lambda: [info, lower])
    at = open_page("evaluate")
    assert at.multiselect(key="evaluation_saes").value == [info.id]
    settle(at.selectbox(key="sidebar_sae").set_value("lower").run())
    assert at.multiselect(key="evaluation_saes").value == ["lower"]
    settle(at.multiselect(key="evaluation_saes").set_value([info.id]).run())
    assert at.session_state["work"].sae_id == info.id
    assert at.selectbox(key="sidebar_sae").value == info.id
    settle(at.multiselect(key="evaluation_saes").set_value([info.id, "lower"]).run())
    assert at.session_state["work"].sae_id == info.id


def test_an_edited_basket_is_measured_from_compare(steering_work: Work) -> None:
    steering_work.add_latent(3, 1.25)
    at = open_compare(steering_work)
    settle(at.button(key="compare_measure").click().run())
    settle(at.switch_page("views/evaluate.py").run())
    assert at.title[0].value == "Does it work?"
    assert "basket" in at.multiselect(key="evaluation_sources").value
    text = format_latents(steering_work.basket_latents())
    assert at.text_input(key="evaluation_source/basket/latents").value == text
    steering_work.add_latent(3, 2.5)
    settle(at.run())
    request = evaluated(at)
    later = format_latents(steering_work.basket_latents())
    wanted = Candidate("basket", {"latents": (later,)})
    assert wanted in request.candidates  # type: ignore[attr-defined]


def test_a_basket_that_is_not_measured_is_offered(tiny_sae_dir: Path) -> None:
    work = planted_work(str(tiny_sae_dir))
    work.add_latent(3, 1.0)
    at = open_page("evaluate", work=work)
    assert "is not measured" in texts(at)
    settle(at.button(key="evaluation_add_basket").click().run())
    assert at.multiselect(key="evaluation_sources").value[-1] == "basket"
    assert "is not measured" not in texts(at)


# --- limits that speak


@pytest.mark.parametrize("source", ["one", "lines"])
def test_a_prompt_that_is_too_long_is_kept_and_told(steering_work: Work, source: str) -> None:
    at = open_compare(steering_work)
    at.segmented_control(key="compare_source").set_value(source)
    settle(at.run())
    box = at.text_area(key="compare_prompt" if source == "one" else "compare_lines")
    settle(box.set_value("x" * 9120).run())
    told = "A prompt has 9,120 characters, but at most 8,000 are taken; shorten it by 1,120"
    assert told in errors(at)[0].replace("\\", "")
    assert at.button(key="compare_generate").disabled
    assert told in texts(at).replace("\\", "")
    settle(at.run())
    assert at.text_area(key=box.key).value == "x" * 9120


def test_a_grey_button_has_its_reason_beside_it(steering_work: Work) -> None:
    assert "Choose at least one latent first" in texts(open_page("compare"))
    at = open_compare(steering_work)
    settle(at.text_area(key="compare_prompt").set_value("").run())
    assert "Write a prompt first" in texts(at)


def test_a_prompt_that_the_model_refuses_is_told_at_its_field(
    steering_work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_compare(steering_work)
    job = generate_and_wait(at)
    monkeypatch.setattr(job, "_error", PromptPairError("A prompt has <b>9 tokens</b> too many."))
    monkeypatch.setattr(job, "_record", replace(job.record, state="failed"))
    settle(at.run())
    assert [message.count("too many") for message in errors(at)] == [1, 1]
    settle(at.text_area(key="compare_prompt").set_value("A shorter one.").run())
    assert len(errors(at)) == 1


# --- what a click shows


def test_figures_of_tokens_stand_in_a_table_that_opens_by_key(steering_work: Work) -> None:
    at = open_compare(steering_work)
    generate_and_wait(at)
    settle(at.segmented_control(key="texts_mark").set_value("change").run())
    assert texts(at).count("<summary>Figures of every token</summary>") == 2


def test_a_finished_click_scrolls_to_what_it_shows(steering_work: Work) -> None:
    at = open_compare(steering_work)
    settle(at.button(key="compare_generate").click().run())
    assert any("st-key-compare_results" in item.proto.body for item in at.get("html"))
    settle(at.run())
    assert not any("st-key-compare_results" in item.proto.body for item in at.get("html"))


def test_the_engine_does_not_live_in_a_cache_that_visitors_clear(tiny_sae_dir: Path) -> None:
    import streamlit as st

    before, kept = engine(), store()
    st.cache_resource.clear()
    st.cache_data.clear()
    assert engine() is before
    assert store() is kept
    assert layers_of(before.saes())[str(tiny_sae_dir)] == 1


class Log:
    def save_job(self, job: JobRecord) -> None:
        self.kept = job


def test_the_copy_of_a_result_that_the_log_has_can_be_dropped() -> None:
    log = Log()
    job = Job("rank", "a ranking", None, lambda _job: 1, log=log, summarize=lambda _: {"a": 1})
    job.forget_summary()
    job.run()
    assert job.record.result == log.kept.result == {"a": 1}
    job.forget_summary()
    assert (job.record.result, job.result()) == (None, 1)
