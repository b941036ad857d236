"""The page of evaluations, with saved ones and with one that is measured on the tiny model."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.compare.steering_form import SteeringForm
from app.dashboard.handles import engine, store
from app.dashboard.jobs import speed
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown
from app.presentation.evaluation import describe_setting
from saif_core.engine.job import Job
from saif_core.errors import EvaluatorError
from saif_core.records.evaluation import (
    Evaluation,
    EvaluationText,
)
from saif_core.records.jobs import JobRecord
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import Arm, Edit, Sampling, Schedule
from tests import tiny
from tests.explained import check_explained
from tests.pages import MAIN, errors, open_page, settle, texts, wait_for
from tests.storage_samples import as_before
from tests.test_charts_evaluation import EVALUATION, LATENTS, REQUEST, made, saif
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


def made_with(*edits: Edit) -> Evaluation:
    """The evaluation whose best cell was steered with these edits."""
    layers = tuple(edit.layer for edit in edits)
    setting = replace(saif(15, 0.75), layers=layers)
    cells = (*EVALUATION.cells[:5], replace(EVALUATION.cells[5], setting=setting))
    return replace(EVALUATION, cells=cells, made=(made(setting, *edits),))


def with_sae(evaluation: Evaluation) -> Evaluation:
    """The evaluation as made with the SAE that is offered."""
    sae_id = engine().saes()[0].id
    kept = tuple(
        replace(
            one,
            edits=tuple(replace(e, sae_id=sae_id if e.sae_id else "") for e in one.edits),
        )
        for one in evaluation.made
    )
    return replace(evaluation, request=replace(evaluation.request, sae_ids=(sae_id,)), made=kept)


def save(evaluation: Evaluation = EVALUATION, **changes: Any) -> Evaluation:
    """A saved evaluation: 25 texts in cell 5, two evil ones in cell 3, none elsewhere."""
    evaluation = replace(with_sae(evaluation), **changes)
    kept = [
        EvaluationText(
            *(5, f"content {n}", f"text {n}.", "strict", f"reason {n}", "success", 12.5),
            about=n != 1,
        )
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


def test_the_cost_is_shown_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "speed_now", lambda: None)
    at = open_page("evaluate")
    at.multiselect(key="evaluation_baselines").set_value(["unsteered"])
    at.multiselect(key="evaluation_controls").set_value(["flipped"])
    settle(at.multiselect(key="evaluation_sources").set_value(["saif"]).run())
    # 1 unsteered, 4 strengths, 1 flipped control; 20 test contents of at most 40 tokens.
    # What latents are read over is written too: 16 contents, 4 wordings and none, 24 tokens each.
    said = "Up to 6 cells · 120 texts · 4,800 tokens and 1,920 to learn from · about 27 s at 250"
    assert said in texts(at)
    settle(at.text_input(key="evaluation_strengths").set_value("1, 2").run())
    settle(at.text_input(key="evaluation_source/saif/top").set_value("5 ; 10,15").run())
    assert "Up to 8 cells · 160 texts" in texts(at)
    # What was measured here goes before what is usual.
    monkeypatch.setattr(speed, "speed_now", lambda: 80.0)
    assert "about 2 min at 80 tokens/s (measured just now)" in texts(settle(at.run()))


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
    assert "Steered with saif at strength 1" in page
    # Of the best setting on the reporting half.
    assert "8% \\[15–65\\] of 40 outputs that could be judged are useful" in page
    assert "its sentence embedding is closer to its own content than to 19 others" in page
    assert "7 cells of 4 test contents" in page
    assert len(at.get("vega_lite_chart")) == 5
    cells = next(t.value for t in at.dataframe if "resid_share" in t.value.columns)
    for name in ("useful", "strict", "loose", "disorder"):
        shares = [getattr(cell.rates, name) for cell in evaluation.cells]
        assert cells[name].tolist() == [100 * share for share in shares]
    best = next(t.value for t in at.dataframe if "setting" in t.value.columns)
    assert best["useful"].tolist() == [100 * one.rates.primary for one in evaluation.best]
    assert {"strict", "loose", "disorder", "p_prompted"} <= set(best.columns)
    assert [button.label for button in at.get("download_button")] == [
        *("CSV", "Texts (CSV)", "JSON", "HTML")
    ]
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
    told = [item.value for item in at.caption if "under the unsteered model" in item.value]
    assert told[0] == "follows · about its content · perplexity 12.5 under the unsteered model"
    assert "not about its content, so it does not count as useful" in told[1]
    settle(at.get("pagination")[0].set_value(3).run())
    assert "Texts 21 to 25 of 25 texts" in texts(at)
    assert "text 24." in html_of(at)


def click_chart(at: AppTest, evaluation: Evaluation, cell: Any) -> None:
    at.session_state[f"evaluation_chart_accuracy_useful_{evaluation.id}"] = {
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
    assert "broken text · content not looked at · no perplexity: empty text" in texts(at)
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


def test_an_evaluation_of_before_shows_strict_as_the_main_figure_and_says_so() -> None:
    evaluation, new = save(as_before(EVALUATION), id="before"), save()
    at = open_page("evaluate", evaluation=new.id)
    settle(at.segmented_control(key="evaluation_measure").set_value("useful").run())
    at = open_page("evaluate", evaluation=evaluation.id)
    assert not errors(at)
    assert "before texts were checked for their content" in texts(at)
    assert "follow the instruction strictly" in texts(at)
    field = at.segmented_control(key="evaluation_measure_before")
    assert (field.options, field.value) == (["strict", "loose"], "strict")
    assert "**Texts that follow the instruction, strict**" in texts(at)
    assert "**Strict against broken text**" in texts(at)
    tables = [t.value for t in at.dataframe if "p_unsteered" in t.value.columns]
    assert len(tables) == 2
    assert not any("useful" in table.columns for table in tables)
    listed = next(t.value for t in at.dataframe if "best arm" in t.value.columns)
    assert listed["useful"].isna().tolist() == [False, True]
    assert listed["strict"].tolist() == [15.0, 15.0]
    check_explained(at, p="p, unsteered", strict="Strict texts of")


def test_where_nothing_tells_content_the_page_says_why() -> None:
    reason = "Give *at least* 20."
    evaluation = save(replace(EVALUATION, content_measure="", content_reason=reason))
    page = texts(open_page("evaluate", evaluation=evaluation.id))
    assert escape_markdown(reason) in page
    assert "So useful means strict and whole here" in page


def test_another_curve_can_be_chosen() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    assert at.segmented_control(key="evaluation_measure").value == "useful"
    assert "**Useful texts**" in texts(at)
    assert "**Useful against broken text**" in texts(at)
    settle(at.segmented_control(key="evaluation_measure").set_value("loose").run())
    assert "**Texts that follow the instruction, loose**" in texts(at)


def test_a_best_setting_that_breaks_too_many_texts_is_called_the_nearest() -> None:
    cell = EVALUATION.cells[5]
    broken = replace(cell, choosing=replace(cell.choosing, disorder=0.3))
    evaluation = save(replace(EVALUATION, cells=(*EVALUATION.cells[:5], broken)))
    at = open_page("evaluate", evaluation=evaluation.id)
    assert "None qualified of saif" in texts(at)
    assert "this is the nearest" in texts(at)
    assert "None qualified" not in texts(open_page("evaluate", evaluation=save(id="b").id))


def test_what_was_measured_goes_on_on_compare() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    assert at.button(key="evaluation_use_cell").label == "Use this on Compare"
    settle(at.button(key="evaluation_use_best").click().run())
    in_hand = at.session_state["work"]
    assert in_hand.sae_id == engine().saes()[0].id
    assert in_hand.basket == {latent.index: latent.coefficient for latent in LATENTS}
    assert in_hand.strength == 1.0
    assert in_hand.instruction_record() == evaluation.request.instruction
    assert not at.session_state["compare_form"].arms
    assert at.title[0].value == "What does it do to the text?"


def test_compare_steers_and_samples_as_was_measured() -> None:
    request = replace(
        REQUEST,
        schedule=Schedule(decay=0.2),
        keep_norm=True,
        sampling=Sampling(chat=False, temperature=0.5, max_new_tokens=24),
    )
    evaluation = save(replace(EVALUATION, request=request, id="faded"))
    at = open_page("evaluate", evaluation=evaluation.id)
    form = at.session_state["compare_form"] = SteeringForm(prompt="A prompt.")
    form.sampling = replace(form.sampling, seed=3)
    settle(at.button(key="evaluation_use_best").click().run())
    made_request = form.request(at.session_state["work"], 1)
    (steered,) = made_request.steered
    assert steered.schedule == Schedule(decay=0.2)
    assert [edit.keep_norm for edit in steered.edits] == [True]
    sampling = made_request.sampling
    assert (sampling.temperature, sampling.max_new_tokens, sampling.chat) == (0.5, 24, False)
    assert (made_request.prompts, sampling.seed, len(made_request.arms)) == (("A prompt.",), 3, 2)


def arm_on_compare(evaluation: Evaluation, button: str) -> Arm:
    """The arm that Compare shows after a cell was sent there."""
    at = open_page("evaluate", evaluation=evaluation.id)
    work = at.session_state["work"]
    settle(at.button(key=button).click().run())
    (one,) = at.session_state["compare_form"].arms
    assert not work.basket
    assert at.title[0].value == "What does it do to the text?"
    arm: Arm = one.arm
    assert not one.on_dial
    return arm


def test_latents_of_several_layers_come_to_compare_as_an_arm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = engine().saes()[0]
    monkeypatch.setattr(engine(), "saes", lambda: [info, replace(info, id="lower", layer=0)])
    edits = tuple(
        Edit(layer, sae_id=sae_id, latents=(ChosenLatent(layer + 3, 2.0),), share=0.5)
        for sae_id, layer in ((info.id, 1), ("lower", 0))
    )
    evaluation = made_with(*edits)
    request = replace(evaluation.request, schedule=Schedule(decay=0.2))
    evaluation = replace(evaluation, request=request, id="both")
    store().evaluations.save(evaluation, [])
    arm = arm_on_compare(evaluation, "evaluation_use_best")
    assert arm.edits == edits
    assert (arm.strength, arm.schedule.decay) == (0.75, 0.2)
    assert arm.name == "saif · layers 1 + 0 · top 15"


@pytest.mark.parametrize("method", ["clamp", "addition"])
def test_other_methods_and_vectors_come_to_compare_as_an_arm(method: str) -> None:
    sha256 = store().tensors.put({"vector": tiny.plant_direction().numpy()})
    edit = (
        Edit(1, "clamp", sae_id=engine().saes()[0].id, latents=LATENTS)
        if method == "clamp"
        else Edit(1, tensors=sha256)
    )
    evaluation = save(made_with(edit))
    assert arm_on_compare(evaluation, "evaluation_use_cell").edits == (edit,)


def test_a_control_comes_to_compare_as_an_arm() -> None:
    evaluation = save()
    at = open_page("evaluate", evaluation=evaluation.id)
    settle(at.selectbox(key=f"evaluation_cell_{evaluation.id}").set_value(6).run())
    settle(at.button(key="evaluation_use_cell").click().run())
    (one,) = at.session_state["compare_form"].arms
    assert (one.arm.kind, one.arm.strength) == ("random", 1.0)


def test_what_compare_cannot_repeat_is_not_offered() -> None:
    evaluation = save(made=())
    at = open_page("evaluate", evaluation=evaluation.id)
    assert not [button for button in at.button if (button.key or "").startswith("evaluation_use")]
    assert "what it steered with was not kept" in texts(at)
    foreign = replace(EVALUATION, id="foreign")
    store().evaluations.save(foreign, [])
    at = open_page("evaluate", evaluation=foreign.id)
    assert not [button for button in at.button if (button.key or "").startswith("evaluation_use")]
    assert "the SAE s is not offered here" in texts(at)


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
    assert listed.value["useful"].tolist() == [7.5, 7.5]
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
    at.multiselect(key="evaluation_sources").set_value(["one_latent"])
    at.text_input(key="evaluation_strengths").set_value("1")
    at.multiselect(key="evaluation_controls").set_value([])
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
    assert evaluation.made[0].edits[0].latents[0].index == PLANTED_LATENT
    steered = next(c for c in evaluation.cells if c.setting.arm == "one_latent")
    told = describe_setting(evaluation.request, steered.setting)
    assert told in texts(at) or "one latent" in texts(at)
    assert steered.rates.loose == 1.0
    assert f"{len(evaluation.cells)} cells of 4 test contents" in texts(at)
    assert at.session_state["evaluation_shown"] == evaluation.id
    assert store().evaluations.get(evaluation.id) == evaluation
    # The speed of what was measured replaces the usual one, and an address opens the same page.
    assert "the speed of the evaluation below" in texts(at)
    assert PLANTED_ANSWER in html_of(open_page("evaluate", evaluation=evaluation.id))


def test_a_running_evaluation_shows_its_progress_survives_a_reload_and_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold_up(*_: Any, step: Any, **__: Any) -> None:
        begun.set()
        while not go_on.wait(0.01):
            # Pages that ask something in between are answered here.
            step(0, 1, "in the way")

    monkeypatch.setattr("saif_core.engine.tasks.rank_latents", hold_up)
    sae_id = engine().saes()[0].id
    blocker = engine().submit(RankingRequest(sae_id, "in-the-way", tiny.planted_pairs(1)))
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

    monkeypatch.setattr("saif_core.engine.tasks.evaluate", fail)
    at = small(open_page("evaluate", work=measuring_work()))
    wait_for(measure(at))
    settle(at.run())
    (message,) = errors(at)
    assert "cannot be \\<b\\>judged" in message
    assert not at.button(key="evaluation_measure_button").disabled


def test_what_a_newcomer_cannot_know_is_explained() -> None:
    at = open_page("evaluate", evaluation=save().id)
    check_explained(
        at,
        strength="Strengths|strength|Decay of the strength|All these layers|**Parameters",
        arm="arm|best arm|**Best setting",
        setting="setting|**Best setting|Controls of every setting",
        baseline="Baselines",
        control="Controls",
        useful="useful|Useful texts of|**Useful texts|**Useful against|Texts that count",
        strict="strict|Texts that count",
        loose="loose|Texts that count",
        disorder="disorder|**Broken text|**Useful against",
        perplexity="perplexity|**Median perplexity",
        distinct_2="distinct-2",
        interval="95% interval",
        p="p, unsteered|p, random|p, prompted",
        prompted="p, prompted",
        about_its_content="Useful texts follow strictly",
        cell="Cell|cells|The texts of a cell|**All cells",
        layer="layer|SAEs, one|Further layers",
        SAE="SAEs, one",
        source="Sources",
        steering_method="Steering methods",
        wording="To learn from|To prompt with",
        content="Test contents|Contents to rank",
        selector="Score latents by",
        reading_position="Read activations at",
        scope="Steer",
        decay="Decay|Power",
        temperature="Temperature",
        top_p="Top p",
        seed="Seed",
    )
