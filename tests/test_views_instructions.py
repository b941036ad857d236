import re
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.dashboard.handles import engine, store
from app.dashboard.instructions.pair_grid import EXAMPLE_PAIRS
from app.dashboard.instructions.typed import Typed
from saif_core.inputs.prompt_pairs import english_wordings, load_pairs
from saif_core.records.ranking import Ranking
from tests.explained import check_explained
from tests.pages import MAIN, errors, settle, texts, wait_for

pytestmark = pytest.mark.usefixtures("tiny_process")


def start(**query: str) -> AppTest:
    """The page as a browser opens it at its own address."""
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.switch_page("views/instructions.py")
    for name, value in query.items():
        at.query_params[name] = value
    return settle(at.run())


def open_first(**query: str) -> AppTest:
    """The page once the model is loaded."""
    at = start(**query)
    for job in engine().jobs():
        wait_for(job)
    return settle(at.run())


def find(at: AppTest) -> AppTest:
    settle(at.button(key="find_latents").click().run())
    wait_for(engine().jobs()[0])
    return settle(at.run())


def test_the_first_screen_makes_48_pairs_of_the_english_wordings() -> None:
    at = open_first()
    assert not errors(at)
    assert at.selectbox(key="instruction_choice").value == "translate-to-french"
    assert "Pair 1 of 48" in texts(at)
    assert re.search(r"48 pairs · [\d,]+ of [\d,]+ tokens to compute", texts(at))


def test_the_first_paint_does_not_wait_for_the_model() -> None:
    at = start()
    assert "Loading the model" in texts(at) or engine().status().model_loaded
    assert at.button(key="find_latents").label == "Find latents"


def test_prompts_show_special_tokens_and_what_the_instruction_adds() -> None:
    bodies = [item.proto.body for item in open_first().get("html")]
    html = [body for body in bodies if "im_start" in body]
    assert len(html) == 2
    assert "&lt;|im_start|&gt;" in html[0]
    assert "text-decoration:underline" in html[0]
    assert "text-decoration:underline" not in html[1]


def test_all_wordings_multiply_the_pairs() -> None:
    at = open_first(contents_shipped="3", wordings="all")
    n_wordings = int(re.findall(r"Wordings \((\d+)", at.segmented_control(key="wordings").label)[0])
    assert f"Pair 1 of {3 * n_wordings}" in texts(at)


def test_finding_latents_keeps_the_ranking_and_names_its_job_in_the_url() -> None:
    at = find(open_first(contents_shipped="4", wordings="first", response_tokens="3"))
    work = at.session_state["work"]
    assert isinstance(work.ranking, Ranking)
    assert work.ranking.n_pairs == 4
    assert work.ranking_request.response_tokens == 3
    assert at.query_params["job"] == work.job_id
    assert "fire on" in at.info[0].value
    assert "of answer tokens with translate" in at.info[0].value
    assert r"\(4 prompt pairs\)" in at.info[0].value
    assert not at.success
    assert "already computed" in texts(at)


def test_a_reload_takes_up_the_job_in_the_url() -> None:
    first = find(open_first(contents_shipped="4", wordings="first", response_tokens="3"))
    job_id = first.query_params["job"]
    again = open_first(job=job_id)
    assert again.session_state["work"].ranking.id == first.session_state["work"].ranking.id


def test_an_unknown_job_in_the_url_is_answered_with_a_sentence() -> None:
    at = open_first(job="no-such-job")
    assert "not known here" in at.warning[0].value
    assert not errors(at)


def test_choices_outlive_a_visit_to_another_page() -> None:
    at = open_first(position="before")
    settle(at.number_input(key="contents_shipped").set_value(5).run())
    settle(at.toggle(key="chat").set_value(False).run())
    settle(at.switch_page("views/latents.py").run())
    settle(at.switch_page("views/instructions.py").run())
    assert at.number_input(key="contents_shipped").value == 5
    assert at.toggle(key="chat").value is False
    assert at.segmented_control(key="position").value == "before"


def test_the_selector_decides_which_parameters_are_drawn() -> None:
    at = open_first()
    assert at.selectbox(key="selector_sensitivity_compare").value == "fires"
    settle(at.selectbox(key="selector").set_value("mean_difference").run())
    assert not [box for box in at.selectbox if (box.key or "").startswith("selector_")]


def test_pairs_of_ones_own_can_be_ranked() -> None:
    at = open_first(source="file", read="last-token")
    assert at.button(key="find_latents").disabled
    rows = "".join(f"The dog is big {n},PLANT\n" for n in range(3))
    at.file_uploader[0].upload("mine.csv", f"content,instruction\n{rows}".encode(), "text/csv")
    settle(at.run())
    assert "Pair 1 of 3" in texts(at)
    find(at)
    assert at.session_state["work"].ranking.instruction == "mine"
    assert at.session_state["work"].ranking.n_pairs == 3


def test_a_bad_upload_is_one_sentence_and_keeps_the_form() -> None:
    at = open_first(source="file", read="last-token")
    at.file_uploader[0].upload("mine.csv", b"a,b\n1,2\n", "text/csv")
    settle(at.run())
    (message,) = errors(at)
    assert "columns" in message
    assert at.segmented_control(key="read").value == "last-token"
    assert at.button(key="find_latents").disabled


def test_an_edited_copy_of_an_instruction_is_chosen() -> None:
    at = open_first()
    area = at.text_area(key="instruction_text_translate-to-french")
    area.set_value(area.value.replace("Translate the sentence to French.", "PLANT"))
    button = next(button for button in at.button if button.label == "Use this copy")
    settle(button.click().run())
    assert at.session_state["work"].instruction == "my-translate-to-french"
    assert any("PLANT" in item.proto.body for item in at.get("html"))


def test_an_edited_copy_that_is_no_instruction_is_one_sentence() -> None:
    at = open_first()
    at.text_area(key="instruction_text_translate-to-french").set_value("name: [")
    button = next(button for button in at.button if button.label == "Use this copy")
    settle(button.click().run())
    (message,) = errors(at)
    assert "YAML" in message
    assert at.session_state["work"].instruction == "translate-to-french"


def test_an_instruction_file_is_chosen() -> None:
    at = open_first()
    fields = ["name: shout", "evaluator: language", "evaluator_parameters: {language: fr}"]
    data = "\n".join([*fields, "wordings: [PLANT]"]).encode()
    at.file_uploader(key="instruction_file").upload("shout.yaml", data, "text/yaml")
    settle(at.run())
    assert at.session_state["work"].instruction == "shout"
    assert not errors(at)


def test_a_name_in_the_url_cannot_act_as_markdown() -> None:
    at = open_first(instruction="![x](http://example.org/x.png)")
    assert "![x](" not in texts(at)


def test_an_sae_in_the_url_that_is_not_offered_is_never_loaded(tiny_sae_dir: Path) -> None:
    at = open_first(sae="/etc")
    assert at.session_state["work"].sae_id == str(tiny_sae_dir)


def test_a_running_ranking_shows_its_progress_and_can_be_stopped() -> None:
    at = open_first(contents_shipped="100", wordings="all", response_tokens="200")
    settle(at.button(key="find_latents").click().run())
    job = engine().jobs()[0]
    assert at.button(key="find_latents").disabled
    settle(at.button(key="rank_stop").click().run())
    wait_for(job)
    settle(at.run())
    assert job.record.state == "cancelled"
    assert any("stopped" in info.value for info in at.info)
    assert not at.button(key="find_latents").disabled


def test_a_page_that_breaks_says_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    at = open_first()

    def broken(*args: object, **kwargs: object) -> None:  # noqa: ARG001
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(st, "title", broken)
    settle(at.run())
    (message,) = errors(at)
    assert "did not expect" in message
    assert "secret" not in message


def test_a_share_link_goes_to_the_shared_page_without_the_engine() -> None:
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.query_params["session"] = "no-such-share"
    settle(at.run())
    assert "Which instruction?" not in texts(at)
    assert "Work in hand" not in texts(at)
    assert not engine().jobs()


def test_what_is_typed_is_ranked_and_kept_as_an_instruction() -> None:
    at = open_first(source="typed", contents_shipped="3", response_tokens="3")
    assert at.button(key="find_latents").disabled
    settle(at.text_area(key="page_say").set_value("PLANT\nPLANT it").run())
    settle(at.selectbox(key="page_judge").set_value("question").run())
    assert "Pair 1 of 6" in texts(at)
    find(at)
    work = at.session_state["work"]
    assert work.ranking.instruction == work.instruction == "plant"
    assert work.uploaded["plant"].evaluator == "question"
    again = open_first(
        source="typed", job=work.job_id, instruction="plant", work=at.query_params["work"]
    )
    assert again.text_area(key="page_say").value == "PLANT\nPLANT it"
    assert again.session_state["work"].uploaded["plant"] == work.uploaded["plant"]


def test_a_typed_wording_is_in_its_own_language_where_that_is_clear() -> None:
    lines = (
        "Answer as a pirate.",
        "Réponds toujours comme le ferait un vieux pirate.",
        "Antworte bitte immer so, wie es ein Pirat tun würde.",
        "Sonnet",
        "Отвечай как пират.",
    )
    made = Typed("\n".join(lines)).instruction()
    languages = ("en", "fr", "de", "en", "en")
    assert [(one.text, one.language) for one in made.wordings] == list(
        zip(lines, languages, strict=True)
    )
    assert english_wordings(made) == [lines[0], *lines[3:]]


def test_a_typed_instruction_never_takes_the_name_of_a_shipped_one() -> None:
    at = open_first(source="typed")
    settle(at.text_area(key="page_say").set_value("Refuse!").run())
    find(at)
    assert at.session_state["work"].instruction == "my-refuse"


def test_contents_can_be_pasted_and_survive_a_reload() -> None:
    at = open_first(wordings="first")
    at.text_area(key="contents_text").set_value("The dog is big.\n\nThe cat is old.\n")
    button = next(button for button in at.button if button.label == "Use these")
    settle(button.click().run())
    assert "Pair 1 of 2" in texts(at)
    assert "In use: pasted · 2 rows" in texts(at)
    again = open_first(wordings="first", work=at.query_params["work"])
    assert "Pair 1 of 2" in texts(again)
    settle(again.button(key="own_contents_forget").click().run())
    assert "Pair 1 of 8" in texts(again)


def test_own_pairs_can_be_edited_survive_a_reload_and_are_told_in_the_sidebar() -> None:
    at = open_first(source="file", read="last-token")
    assert "Your own pairs" not in texts(at)
    rows = "The dog is big,PLANT\nThe cat is old,PLANT it\n"
    at.file_uploader[0].upload("mine.csv", f"content,instruction\n{rows}".encode(), "text/csv")
    settle(at.run())
    assert any("Your own pairs: mine" in one.value for one in at.sidebar.caption)
    settle(at.text_input(key="own_pairs_name").set_value("plants").run())
    settle(at.segmented_control(key="own_pairs_kind").set_value("sides").run())
    assert "Pair 1 of 2" in texts(at)
    again = open_first(source="file", read="last-token", work=at.query_params["work"])
    assert "Pair 1 of 2" in texts(again)
    assert again.text_input(key="own_pairs_name").value == "plants"
    find(again)
    pairs = again.session_state["work"].ranking_request.pairs
    assert [pair.positive for pair in pairs] == ["The dog is big PLANT", "The cat is old PLANT it"]
    settle(again.segmented_control(key="source").set_value("instruction").run())
    assert any("Your own pairs: plants" in one.value for one in again.sidebar.caption)


def test_own_pairs_can_be_forgotten() -> None:
    at = open_first(source="file", read="last-token")
    at.file_uploader[0].upload("mine.csv", b"content,instruction\na,b\n", "text/csv")
    settle(at.run())
    settle(at.button(key="own_pairs_forget").click().run())
    assert at.button(key="find_latents").disabled
    assert "Type or paste pairs" in texts(at)


def test_the_example_file_can_be_read() -> None:
    pairs = load_pairs(EXAMPLE_PAIRS.encode(), filename="pairs.csv")
    assert len(pairs) == 3
    assert all(pair.instruction.endswith(".") for pair in pairs)


@pytest.mark.parametrize(
    "part", [None, [], {"kind": "x"}, {"kind": "parts", "name": "a", "rows": [["one"]]}, "text"]
)
def test_kept_pairs_that_make_no_sense_are_left_aside(part: object) -> None:
    at = open_first()
    store().work.put("A" * 22, {"own_pairs": part, "typed_instruction": part, "own_contents": 3})
    again = open_first(source="file", work="A" * 22)
    assert not errors(again)
    assert again.button(key="find_latents").disabled
    assert at


def test_the_next_step_is_the_one_primary_button() -> None:
    at = open_first(contents_shipped="4", wordings="first", response_tokens="3")
    assert at.button(key="find_latents").proto.type == "primary"
    find(at)
    assert at.button(key="find_latents").proto.type == "secondary"
    assert at.button(key="go_latents").proto.type == "primary"
    settle(at.number_input(key="contents_shipped").set_value(5).run())
    assert at.button(key="find_latents").proto.type == "primary"


def test_what_a_newcomer_cannot_know_is_explained() -> None:
    check_explained(
        open_first(),
        prompt_pair="Prompt pairs from",
        instruction="Instruction|Instruction comes",
        wording="Wordings",
        content="Contents",
        SAE="SAE",
        reading_position="Read activations at",
        token="Answer tokens",
        selector="Score latents by",
        latent="Latents to steer with",
        chat_template="Chat template",
    )
