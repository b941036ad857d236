"""The first page: what SAIF is, a box to begin with, and a finished example."""

import html

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.compare.open_session import OPENED
from app.dashboard.handles import engine, store
from app.presentation.recipes import MEASURED
from saif_core.inputs.shipped import shipped_example, shipped_instructions
from saif_core.records.ranking import Ranking
from tests.pages import MAIN, errors, settle, texts, wait_for

pytestmark = pytest.mark.usefixtures("tiny_process")


def start(**query: str) -> AppTest:
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    settle(at.run())
    for job in engine().jobs():
        wait_for(job)
    return settle(at.run())


def find(at: AppTest) -> AppTest:
    return settle(at.button(key="start_find").click().run())


def test_the_first_screen_says_what_saif_is_and_shows_an_example_with_its_judgements() -> None:
    shown = texts(start())
    assert "SAIF finds what switches on inside a language model" in shown
    example = shipped_example()
    assert example is not None
    assert example.result is not None
    assert example.ranking is not None
    for arm in ("unsteered", MEASURED, "prompted", "random"):
        assert f"**{arm}**" in shown
    steered = next(text for text in example.result.generations if text.arm == MEASURED)
    assert html.escape(steered.text) in shown
    assert shown.count("**strict**: The whole text is a JSON object") == 1
    assert shown.count("**none**: The text holds no JSON object") == 2
    assert "how often it works is what Evaluate measures" in shown


def test_nothing_typed_is_said_and_nothing_is_started() -> None:
    at = find(start())
    assert errors(at) == ["Nothing is typed yet; say what the model should do\\."]
    assert not [job for job in engine().jobs() if job.kind == "rank"]


def test_what_is_typed_is_ranked_without_a_judge_and_leads_on() -> None:
    at = start()
    at.text_area(key="start_say").set_value("Answer as a pirate.\n\nTalk like a pirate.")
    find(at)
    assert "Which instruction?" in texts(at)
    (job,) = (job for job in engine().jobs() if job.kind == "rank")
    wait_for(job)
    settle(at.run())
    work = at.session_state["work"]
    assert isinstance(work.ranking, Ranking)
    assert work.ranking.instruction == "answer-as-a-pirate"
    assert work.ranking.n_pairs == 16
    record = work.instruction_record()
    assert record is not None
    assert record.evaluator == ""
    assert [one.text for one in record.wordings] == ["Answer as a pirate.", "Talk like a pirate."]
    assert at.text_area(key="page_say").value == "Answer as a pirate.\n\nTalk like a pirate."
    assert at.button(key="go_latents").proto.type == "primary"


def test_wordings_in_several_languages_are_all_ranked() -> None:
    at = start()
    french = "Réponds toujours comme le ferait un vieux pirate."
    at.text_area(key="start_say").set_value(f"Answer as a pirate.\n{french}")
    find(at)
    (job,) = (job for job in engine().jobs() if job.kind == "rank")
    wait_for(job)
    settle(at.run())
    work = at.session_state["work"]
    assert work.ranking.n_pairs == 16
    assert [one.language for one in work.instruction_record().wordings] == ["en", "fr"]


def test_a_shipped_instruction_is_taken_with_its_judge_and_its_english_wordings() -> None:
    at = start()
    settle(at.button_group(key="start_shipped").set_value("translate-to-german").run())
    assert at.selectbox(key="start_judge").value == "language"
    english = [
        w for w in shipped_instructions()["translate-to-german"].wordings if w.language == "en"
    ]
    assert len(at.text_area(key="start_say").value.splitlines()) == len(english)
    find(at)
    work = at.session_state["work"]
    assert work.instruction == "translate-to-german"
    assert not work.uploaded
    assert at.selectbox(key="instruction_choice").value == "translate-to-german"


def test_what_is_typed_survives_a_reload() -> None:
    at = start()
    at.text_area(key="start_say").set_value("Answer as a pirate.")
    settle(at.run())
    settle(at.selectbox(key="start_judge").set_value("keyword").run())
    (field,) = (one for one in at.text_input if (one.key or "").startswith("start_judge_keyword"))
    settle(field.set_value("arrr").run())
    again = start(work=at.query_params["work"])
    assert again.text_area(key="start_say").value == "Answer as a pirate."
    assert again.selectbox(key="start_judge").value == "keyword"
    assert "arrr" in [one.value for one in again.text_input]


def test_the_example_opens_on_compare_without_the_model_and_can_be_loaded_anew() -> None:
    at = settle(AppTest.from_file(str(MAIN), default_timeout=60).run())
    settle(at.button(key="start_open").click().run())
    example = shipped_example()
    assert example is not None
    assert at.session_state[OPENED].id == example.id
    assert "What does it do to the text?" in texts(at)
    assert f"{MEASURED}: strictly 3, at least loosely 3 of 3" in texts(at)
    assert at.query_params["open"] == example.id
    assert store().sessions.get(example.id).result == example.result
    assert not [job for job in engine().jobs() if job.kind != "load"]


def test_an_example_of_another_model_cannot_be_tried_and_says_why() -> None:
    at = start()
    settle(at.button(key="start_try").click().run())
    (message,) = errors(at)
    assert "is not offered for" in message
    assert not [job for job in engine().jobs() if job.kind == "generate"]
