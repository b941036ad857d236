"""The page of evaluations, with saved ones and with one that is measured on the tiny model."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.compare.steering_form import SteeringForm
from app.dashboard.evaluate.form import (
    check_choice,
    cost_of,
    cost_sentence,
    duration,
    parse_counts,
    parse_numbers,
    split_contents,
    split_wordings,
)
from app.dashboard.fields.schedule_fields import Schedule
from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from app.presentation.evaluation import describe_setting
from saif_core.engine.job import Job
from saif_core.errors import EvaluatorError
from saif_core.records.evaluation import (
    CONTROLS,
    BestCell,
    CellSetting,
    Evaluation,
    EvaluationText,
)
from saif_core.records.jobs import JobRecord
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.saes import SaeInfo
from saif_core.records.steering import SteeringEdit
from tests.pages import MAIN, errors, open_page, settle, texts, wait_for
from tests.test_charts_evaluation import EVALUATION, REQUEST
from tests.tiny import PLANTED_ANSWER, PLANTED_LATENT, PLANTED_WORD

pytestmark = pytest.mark.usefixtures("tiny_process")
EVIL = "<script>alert(1)</script> **bold** [link](http://x)"
SAY_OUI = Instruction(
    "say-oui",
    "Answer oui.",
    "keyword",
    {"keyword": PLANTED_ANSWER},
    (Wording(PLANTED_WORD), Wording(f"{PLANTED_WORD} {PLANTED_WORD}")),
)


def save(**changes: Any) -> Evaluation:
    """A saved evaluation: 25 texts in cell 5, two evil ones in cell 3, none elsewhere."""
    sae_id = engine().saes()[0].id
    evaluation = replace(EVALUATION, request=replace(REQUEST, sae_ids=(sae_id,)), **changes)
    kept = [
        EvaluationText(5, f"content {n}", f"text {n}.", "strict", f"reason {n}", "success", 12.5)
        for n in range(25)
    ]
    kept += [
        EvaluationText(3, EVIL, EVIL, None, EVIL, "disorder", None),
        EvaluationText(3, "content", "", "none", "The text is empty.", "retained", None),
    ]
    store().evaluations.save(evaluation, kept)
    return evaluation


def html_of(at: AppTest) -> str:
    return "\n".join(item.proto.body for item in at.get("html"))


def test_before_anything_was_measured_the_page_says_what_to_do() -> None:
    at = open_page("evaluate")
    assert "Nothing has been measured yet" in texts(at)
    assert not at.button(key="evaluation_measure_button").disabled
    assert not errors(at)


def test_the_cost_is_shown_before_anything_runs() -> None:
    at = open_page("evaluate")
    settle(at.multiselect(key="evaluation_arms").set_value(["unsteered", "saif", "flipped"]).run())
    # 1 unsteered, 4 strengths, 1 flipped control; 20 test contents of at most 40 tokens.
    assert "Up to 6 cells · 120 texts · 4,800 tokens · about 19 s at 250 tokens/s" in texts(at)
    settle(at.text_input(key="evaluation_strengths").set_value("1, 2").run())
    settle(at.text_input(key="evaluation_tops").set_value("5 ; 10,15").run())
    assert "Up to 8 cells · 160 texts" in texts(at)


def test_the_cost_has_room_for_every_control() -> None:
    arms = ("unsteered", "saif", "clamp", "mean-difference", *CONTROLS)
    request = replace(REQUEST, arms=arms, strengths=(0.5, 1.0), tops=(5, 15))
    cost = cost_of(request, [1])
    # Every control of what is best of "saif" and of the mean difference; clamping has none.
    assert cost.n_cells == 1 + 2 * 2 + 2 * 2 + 2 + 2 * 3
    assert cost_of(replace(request, controls="all"), [1]).n_cells == 11 + 3 * (2 * 2 + 2)
    assert cost.n_texts == cost.n_cells * len(REQUEST.test_contents)
    assert "2.8 h" in cost_sentence(cost._replace(n_tokens=2_500_000), 250, measured=False)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, "1 s"), (99.4, "99 s"), (600.0, "10 min"), (7200.0, "2.0 h")]
)
def test_times_are_said_in_a_fitting_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("text", "values"), [("2, 0.5,1", (0.5, 1.0, 2.0)), ("1;1", (1.0,)), (" .5 ,", (0.5,))]
)
def test_lists_of_numbers_are_read(text: str, values: tuple[float, ...]) -> None:
    assert parse_numbers(text, "Strengths", 0.01, 100) == values


@pytest.mark.parametrize(
    "text", ["", " , ", "strong", "1, x", "nan", "inf", "-1", "101", "1 2", "0"]
)
def test_lists_that_are_no_numbers_are_answered_with_a_sentence(text: str) -> None:
    with pytest.raises(EvaluatorError, match=r"^Strengths holds .*give "):
        parse_numbers(text, "Strengths", 0.01, 100)


def test_counts_are_whole_and_not_too_many() -> None:
    assert parse_counts("15, 5", "k", 1000) == (5, 15)
    with pytest.raises(EvaluatorError, match="holds 1.5; give whole numbers"):
        parse_counts("1.5", "k", 1000)
    with pytest.raises(EvaluatorError, match="holds 21 values"):
        parse_counts(",".join(map(str, range(1, 22))), "k", 1000)


def test_wordings_take_turns_and_one_alone_does_both() -> None:
    assert split_wordings(["a", "b", "c"]) == (("a", "c"), ("b",))
    assert split_wordings(["a"]) == (("a",), ("a",))


def test_contents_never_rank_and_test_at_once() -> None:
    assert split_contents(["a", "b", "a", "c", "d"], 2, 2) == (("a", "b"), ("c", "d"))
    with pytest.raises(EvaluatorError, match="3 contents to rank on and 2 to test on are more"):
        split_contents(["a", "b", "c", "c", "d"], 3, 2)


@pytest.mark.parametrize(
    ("arms", "layers", "message"),
    [
        ([], [1], "No arm is chosen"),
        (["saif"], [], "No SAE is chosen"),
        (["saif"], [1, 2, 1], "at layer 1; choose one"),
        (["unsteered", "random"], [1], "has no steered arm to be matched to"),
    ],
)
def test_choices_that_make_no_evaluation_are_answered_with_a_sentence(
    arms: list[str], layers: list[int], message: str
) -> None:
    infos = [SaeInfo(f"s{n}", "m", "", layer, 64, "") for n, layer in enumerate(layers)]
    with pytest.raises(EvaluatorError, match=message):
        check_choice(arms, infos)


def test_bad_input_is_answered_under_its_field_and_nothing_is_lost() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    settle(at.text_input(key="evaluation_strengths").set_value("1, <b>x</b>").run())
    (message,) = errors(at)
    assert "Strengths holds" in message
    assert "<b>" not in message.replace("\\<", "")
    assert at.button(key="evaluation_measure_button").disabled
    assert at.text_input(key="evaluation_strengths").value == "1, <b>x</b>"
    assert "text 0." in html_of(at)
    settle(at.text_input(key="evaluation_strengths").set_value("1").run())
    assert not errors(at)
    assert not at.button(key="evaluation_measure_button").disabled


def test_too_many_contents_are_answered_with_a_sentence() -> None:
    at = open_page("evaluate")
    (n_test,) = (item for item in at.number_input if item.label.startswith("Test contents"))
    (n_rank,) = (item for item in at.number_input if item.label == "Contents to rank latents on")
    n_test.set_value(n_test.max)
    settle(n_rank.set_value(2).run())
    (message,) = errors(at)
    assert "lower one of the two" in message
    assert at.button(key="evaluation_measure_button").disabled


def test_a_saved_evaluation_is_shown_with_its_figures() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    page = texts(at)
    assert "SAIF latents" in page
    assert "15%" in page  # strict accuracy of the best setting on the reporting half
    assert "7 cells of 4 test contents" in page
    assert len(at.get("vega_lite_chart")) == 5
    cells = next(t.value for t in at.dataframe if "resid_share" in t.value.columns)
    assert cells["strict"].tolist() == [100 * cell.rates.strict for cell in evaluation.cells]
    assert [button.label for button in at.get("download_button")] == ["CSV", "JSON", "HTML"]
    assert not errors(at)


def test_the_texts_of_the_best_cell_are_shown_page_by_page() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    assert at.selectbox(key=f"evaluation_cell_{evaluation.id}").value == 5
    page = html_of(at)
    assert "text 0." in page
    assert "text 9." in page
    assert "text 10." not in page
    assert "Texts 1 to 10 of 25 texts" in texts(at)
    assert "12.5 under the unsteered model" in texts(at)
    settle(at.get("pagination")[0].set_value(3).run())
    assert "Texts 21 to 25 of 25 texts" in texts(at)
    assert "text 24." in html_of(at)


def click_chart(at: AppTest, evaluation: Evaluation, cell: Any) -> None:
    at.session_state[f"evaluation_chart_accuracy_strict_{evaluation.id}"] = {
        "selection": {"cell_click": [{"cell": cell}]}
    }


def click_row(at: AppTest, evaluation: Evaluation, cell: int) -> None:
    at.session_state[f"evaluation_cells_{evaluation.id}"] = {
        "selection": {"rows": [cell], "columns": [], "cells": []}
    }


@pytest.mark.parametrize("click", [click_chart, click_row])
def test_a_click_shows_the_texts_of_that_cell_with_all_in_them_escaped(
    click: Callable[[AppTest, Evaluation, int], None],
) -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    click(at, evaluation, 3)
    settle(at.run())
    assert at.selectbox(key=f"evaluation_cell_{evaluation.id}").value == 3
    shown = html_of(at)
    assert "<script>" not in shown
    assert shown.count("&lt;script&gt;") == 2
    assert "(no text: the model ended at once)" in shown
    markdown = "\n".join(item.value for item in at.markdown)
    assert "\\*\\*bold\\*\\*" in markdown
    assert "**could not judge**" in markdown
    assert "broken text · no perplexity: empty text" in texts(at)
    # The click is not taken again: another choice in the list stays.
    settle(at.selectbox(key=f"evaluation_cell_{evaluation.id}").set_value(5).run())
    assert "text 0." in html_of(at)


@pytest.mark.parametrize("cell", [99, -1, "x", None])
def test_a_click_on_no_cell_changes_nothing(cell: Any) -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    click_chart(at, evaluation, cell)
    settle(at.run())
    assert at.selectbox(key=f"evaluation_cell_{evaluation.id}").value == 5


def test_a_cell_without_texts_says_so() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    settle(at.selectbox(key=f"evaluation_cell_{evaluation.id}").set_value(0).run())
    assert "No texts are kept of this cell" in texts(at)


def test_the_loose_curve_can_be_chosen() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    settle(at.segmented_control(key="evaluation_measure").set_value("loose").run())
    assert "**Texts that follow the instruction, loose**" in texts(at)


def test_what_was_measured_goes_on_in_the_lab() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    settle(at.button(key="evaluation_use_best").click().run())
    in_hand = at.session_state["work"]
    assert in_hand.basket == {
        latent.index: latent.coefficient for latent in evaluation.latents["1"]
    }
    assert in_hand.strength == 1.0
    assert in_hand.instruction_record() == evaluation.request.instruction
    assert at.title[0].value == "What does it do to the text?"


def test_the_lab_steers_and_samples_as_was_measured() -> None:
    asked = {"decay": 0.2, "keep_norm": True, "temperature": 0.5, "max_new_tokens": 24}
    sae_id = engine().saes()[0].id
    request = replace(REQUEST, sae_ids=(sae_id,), chat=False, **asked)
    store().evaluations.save(replace(EVALUATION, request=request, id="faded"), [])
    at = open_page("evaluate", evaluation="faded")
    form = at.session_state["compare_form"] = SteeringForm(prompt="A prompt.", seed=3)
    settle(at.button(key="evaluation_use_best").click().run())
    assert form.schedule == Schedule(decay=0.2, keep_norm=True)
    made = form.request(at.session_state["work"])
    assert (made.temperature, made.max_new_tokens, made.chat) == (0.5, 24, False)
    assert (made.prompts, made.seed, made.arms) == (("A prompt.",), 3, ())


def test_latents_of_several_layers_come_to_the_lab_as_an_arm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = engine().saes()[0]
    monkeypatch.setattr(engine(), "saes", lambda: [info, replace(info, id="lower", layer=0)])
    sae_ids, layers = [info.id, "lower"], [info.layer, 0]
    latents = {str(layer): (ChosenLatent(layer + 3, 2.0),) for layer in layers}
    setting = CellSetting("saif", "", tuple(layers), 1, 0.0, 3.0)
    evaluation = replace(
        EVALUATION,
        request=replace(REQUEST, sae_ids=tuple(sae_ids), decay=0.2),
        cells=(replace(EVALUATION.cells[5], setting=setting),),
        best=(BestCell("saif", 0, EVALUATION.cells[5].rates),),
        latents=latents,
        id="both",
    )
    store().evaluations.save(evaluation, [])
    at = open_page("evaluate", evaluation="both")
    form = at.session_state["compare_form"] = SteeringForm(prompt="A prompt.")
    settle(at.button(key="evaluation_use_best").click().run())
    (lab,) = form.arms
    assert lab.arm.edits == tuple(
        SteeringEdit(sae_id, latents[str(layer)])
        for sae_id, layer in zip(sae_ids, layers, strict=True)
    )
    assert (lab.arm.strength, lab.arm.decay, lab.on_dial) == (1.5, 0.2, False)
    assert not errors(at)


def test_what_the_lab_cannot_repeat_is_not_offered() -> None:
    evaluation = save(latents={"1": (ChosenLatent(1, 1.0),)})
    evaluation = save(latents={}, id=evaluation.id)
    at = open_page("evaluate", evaluation=evaluation.id)
    assert not [button for button in at.button if (button.key or "").startswith("evaluation_use")]
    assert "this cell differs in that" in texts(at)


def test_evil_names_are_shown_as_they_are() -> None:
    sae_id = engine().saes()[0].id
    named = replace(REQUEST.instruction, name=EVIL)
    evaluation = replace(
        EVALUATION, request=replace(REQUEST, instruction=named, sae_ids=(sae_id,)), model=EVIL
    )
    store().evaluations.save(evaluation, [])
    at = open_page("evaluate", evaluation=evaluation.id)
    for item in [*at.caption, *at.subheader, *at.markdown]:
        assert "<script>" not in item.value
        assert "**bold**" not in item.value
    assert not errors(at)


def test_an_unknown_evaluation_is_answered_with_a_sentence() -> None:
    at = open_page("evaluate", evaluation=EVIL)
    (message,) = errors(at)
    assert "not kept here" in message
    assert not at.button(key="evaluation_measure_button").disabled


@pytest.mark.parametrize("run", ["<b>nothing</b>", "x"])
def test_an_unknown_run_is_answered_with_a_sentence(run: str) -> None:
    assert "not known here; measure to make one" in texts(open_page("evaluate", run=run))


@pytest.mark.parametrize(
    ("state", "said"), [("lost", "was lost before"), ("done", "open it below")]
)
def test_a_run_of_an_earlier_process_says_how_to_go_on(state: Any, said: str) -> None:
    store().jobs.save_job(JobRecord("j1", "evaluate", "Evaluate say-oui", state))
    page = texts(open_page("evaluate", run="j1"))
    assert said in page
    assert ("Measure again with the same settings" in page) == (state == "lost")


def test_earlier_evaluations_are_opened_and_deleted() -> None:
    old, new = save(), save(id="another")
    at = open_page("evaluate")
    listed = next(t for t in at.dataframe if "best arm" in t.value.columns)
    assert listed.value["cells"].tolist() == [7, 7]
    key = f"evaluation_list_{hash((new.id, old.id))}"
    at.session_state[key] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    settle(at.run())
    settle(at.button(key="evaluation_open").click().run())
    assert at.session_state["evaluation_shown"] == old.id
    assert "7 cells of 4 test contents" in texts(at)
    assert at.button(key="evaluation_open").disabled
    settle(at.button(key="evaluation_delete_it").click().run())
    assert [summary.id for summary in store().evaluations.list()] == [new.id]
    assert "7 cells of 4 test contents" not in texts(at)
    assert not errors(at)


def measuring_work() -> Work:
    return Work(instruction=SAY_OUI.name, uploaded={SAY_OUI.name: SAY_OUI})


def small(at: AppTest) -> AppTest:
    """The least that makes an evaluation of the planted instruction."""
    at.multiselect(key="evaluation_arms").set_value(["unsteered", "prompted", "one-latent"])
    at.text_input(key="evaluation_strengths").set_value("1")
    at.number_input(key="evaluation_max_new_tokens").set_value(6)
    for item in at.number_input:
        if item.label.startswith(("Test contents", "Contents to rank")):
            item.set_value(4)
    return settle(at.run())


def measure(at: AppTest) -> Job:
    settle(at.button(key="evaluation_measure_button").click().run())
    job = engine().job(at.session_state["evaluation_run"])
    assert job is not None
    return job


def test_measuring_shows_the_evaluation_and_keeps_it() -> None:
    at = small(open_page("evaluate", work=measuring_work()))
    job = measure(at)
    wait_for(job)
    settle(at.run())
    assert not errors(at)
    evaluation: Evaluation = job.result()
    assert evaluation.request.instruction == SAY_OUI
    assert evaluation.request.rank_wordings == (PLANTED_WORD,)
    assert not set(evaluation.request.rank_contents) & set(evaluation.request.test_contents)
    assert evaluation.latents["1"][0].index == PLANTED_LATENT
    steered = next(c for c in evaluation.cells if c.setting.arm == "one-latent")
    assert describe_setting(steered.setting) in texts(at) or "one latent" in texts(at)
    assert steered.rates.loose == 1.0
    assert f"{len(evaluation.cells)} cells of 4 test contents" in texts(at)
    assert at.session_state["evaluation_shown"] == evaluation.id
    assert store().evaluations.get(evaluation.id) == evaluation
    # The speed of what was measured replaces the usual one, and an address opens the same page.
    assert "the speed of the evaluation below" in texts(at)
    assert PLANTED_ANSWER in html_of(open_page("evaluate", evaluation=evaluation.id))


def test_a_running_evaluation_shows_its_progress_survives_a_reload_and_stops() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold_up(_model: Any, _saes: Any, step: Any) -> None:
        begun.set()
        while not go_on.wait(0.01):
            # Pages that ask something in between are answered here.
            step(0, 1, "in the way")

    blocker = engine().work("index", "Something else", (), hold_up)
    at = open_page_while_busy(begun)
    job = measure(at)
    assert "Evaluate say\\-oui" in progress_of(at)
    assert at.button(key="evaluation_measure_button").disabled
    again = AppTest.from_file(str(MAIN), default_timeout=60)
    settle(again.run())
    again.switch_page("views/evaluate.py")
    again.query_params["run"] = job.id
    settle(again.run())
    assert "Evaluate say\\-oui" in progress_of(again)
    settle(again.button(key="evaluation_stop").click().run())
    go_on.set()
    wait_for(blocker)
    wait_for(job)
    settle(at.run())
    assert "Stopped. Measure again with the same settings" in texts(at)
    assert not at.button(key="evaluation_measure_button").disabled


def progress_of(at: AppTest) -> str:
    return "\n".join(item.proto.text for item in at.get("progress"))


def open_page_while_busy(begun: threading.Event) -> AppTest:
    """The page with the smallest request, while other work has the engine."""
    assert begun.wait(60)
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    settle(at.run())
    at.session_state["work"] = measuring_work()
    at.switch_page("views/evaluate.py")
    return small(settle(at.run()))


def test_a_failed_evaluation_says_why_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EvaluatorError("It cannot be <b>judged</b>; choose another.")

    monkeypatch.setattr("saif_core.engine.engine.evaluate", fail)
    at = small(open_page("evaluate", work=measuring_work()))
    wait_for(measure(at))
    settle(at.run())
    (message,) = errors(at)
    assert "cannot be \\<b\\>judged" in message
    assert not at.button(key="evaluation_measure_button").disabled
