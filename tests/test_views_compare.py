import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.compare import text_columns
from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown
from app.presentation.session_files import export_session, import_session
from app.presentation.text_diff import diff_html
from app.presentation.texts import arm_size_sentence
from app.presentation.token_change_html import changes_html, legend_html
from saif_core.engine.job import Job
from saif_core.records.evaluation import Evaluation, EvaluationRequest
from saif_core.records.prompts import Turn
from saif_core.records.questions import SizeQuestion
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Sampling,
    Schedule,
)
from saif_core.records.texts import ArmSize, Generation, Judgement
from tests import saved
from tests.compare_page import (
    add_arm,
    add_source,
    form_of,
    generate,
    generate_and_wait,
    open_compare,
    request_of,
    set_in,
)
from tests.compare_page import steering_work as steering_work
from tests.explained import check_explained
from tests.pages import errors, open_page, planted_work, settle, texts, wait_for
from tests.test_measured_strength import cell, made_of
from tests.tiny import PLANTED_ANSWER, PLANTED_LATENT

pytestmark = pytest.mark.usefixtures("tiny_process")


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
    settle(at.button(key="compare_run_stop").click().run())
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
    assert "Texts that follow the instruction: unsteered: strictly" in texts(at)
    assert len(at.get("html")) == 4


def test_settings_end_up_in_the_request(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.slider(key="compare_strength").set_value(0.75)
    at.selectbox(key="compare_scope").set_value("all")
    at.toggle(key="compare_chat").set_value(False)
    at.toggle(key="compare_keep_norm").set_value(True)
    at.number_input(key="compare_decay").set_value(0.25)
    at.number_input(key="compare_temperature").set_value(0.9)
    settle(at.run())
    at.number_input(key="compare_seed").set_value(11)
    at.number_input(key="compare_samples").set_value(2)
    at.number_input(key="compare_decay_power").set_value(2.0)
    at.number_input(key="compare_top_p").set_value(0.9)
    at.text_area(key="compare_stop").set_value("Stop!\\n\n.")
    settle(at.run())
    edit = Edit(
        1, sae_id=steering_work.sae_id, latents=steering_work.basket_latents(), keep_norm=True
    )
    schedule = Schedule("all", decay=0.25, decay_power=2.0)
    assert generate_and_wait(at).request == GenerationRequest(
        prompts=("The old cat sees the house.",),
        arms=(UNSTEERED, Arm("steered", edits=(edit,), strength=0.75, schedule=schedule)),
        sampling=Sampling(
            chat=False,
            max_new_tokens=8,
            temperature=0.9,
            top_p=0.9,
            stop=("Stop!\n", "."),
            seed=11,
            samples=2,
        ),
        instruction="translate-to-french",
        divergence=True,
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
    steered = generate_and_wait(at).request.arms[1]
    size = engine().ask(SizeQuestion(steered)).size
    norm, share = size.norm, size.resid_share
    told = f"raw norm {norm:,.1f} · {share:.0%} of the residual norm at the end of a neutral prompt"
    assert told in texts(at)
    assert f"steered: raw norm {norm:,.1f} · {share:.0%} of the residual norm" in texts(at)
    settle(at.slider(key="compare_strength").set_value(2.0).run())
    assert f"raw norm {2 * norm:,.1f} · {2 * share:.0%} of the residual norm" in texts(at)
    arm = add_arm(at, "random")
    set_in(at, "toggle", arm, "on_dial", False)
    set_in(at, "number_input", arm, "strength", -0.5)
    assert texts(at).count(arm_size_sentence(ArmSize(norm / 2, share / 2))) == 1


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


def test_samples_stand_under_each_other(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.number_input(key="compare_temperature").set_value(0.7)
    settle(at.run())
    at.number_input(key="compare_samples").set_value(3)
    settle(at.run())
    job = generate_and_wait(at)
    assert len(job.result().generations) == 6
    page = texts(at)
    assert all(f"sample {number} of 3" in page for number in (1, 2, 3))
    assert "of 3; steered: strictly" in page
    assert "Broken texts (disorder: loops, invented words, no sense): unsteered" in page


def test_sampled_texts_are_written_again_with_the_next_seed(steering_work: Work) -> None:
    at = open_compare(steering_work)
    assert at.number_input(key="compare_temperature").value == 0.5
    at.number_input(key="compare_temperature").set_value(0.0)
    generate_and_wait(at)
    assert "compare_again" not in {button.key for button in at.button}
    at.number_input(key="compare_temperature").set_value(0.7)
    settle(at.run())
    at.number_input(key="compare_seed").set_value(11)
    first = generate_and_wait(at)
    settle(at.button(key="compare_again").click().run())
    again = engine().job(at.session_state["compare_run"])
    assert again is not None
    wait_for(again)
    settle(at.run())
    sampling = replace(first.request.sampling, seed=12)
    assert again.request == replace(first.request, sampling=sampling)
    assert at.number_input(key="compare_seed").value == 12
    assert "tokens/s" in texts(at)
    assert not errors(at)


def test_a_judge_that_was_down_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Judgement(None, "the judge does not answer"), Judgement("strict", "it is")])
    monkeypatch.setattr(text_columns, "judge_generations", lambda *_: [next(answers)])
    text = Generation(0, "A prompt that nobody has judged.", "steered", "Oui.", (3,), "end")
    grades = [text_columns._judge(saved.INSTRUCTION, None, text).grade for _ in range(3)]
    assert grades == [None, "strict", "strict"]


def test_texts_are_judged_by_what_their_arm_was_told() -> None:
    instruction = replace(saved.INSTRUCTION, evaluator="list", evaluator_parameters={})
    fruit = "- an apple\n- a pear"
    told = Arm("told", "prompted", instruction=f"Answer as in this list:\n{fruit}")
    texts_of = [Generation(0, "A prompt.", arm, fruit, (1,), "end") for arm in ("told", "steered")]
    judged = text_columns._judge_all(texts_of, [told, Arm("steered")], instruction)
    # Items of what the arm was told are not its own.
    assert [judged[text].grade for text in texts_of] == ["none", "strict"]


def test_tokens_are_tinted_by_what_steering_did_to_them(steering_work: Work) -> None:
    at = open_compare(steering_work)
    steered = generate_and_wait(at).result().generations[1]
    for mark in ("change", "kl"):
        settle(at.segmented_control(key="texts_mark").set_value(mark).run())
        page = texts(at)
        assert changes_html(steered.changes, mark) in page  # type: ignore[arg-type]
        assert legend_html(mark) in page  # type: ignore[arg-type]
    assert max(change.change for change in steered.changes) > 1


def test_without_token_probabilities_the_switch_says_why(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.segmented_control(key="compare_source").set_value("lines")
    settle(at.run())
    at.text_area(key="compare_lines").set_value("\n".join(f"The dog {n}" for n in range(9)))
    settle(at.run())
    generate_and_wait(at)
    settle(at.segmented_control(key="texts_mark").set_value("kl").run())
    assert "carry no token probabilities" in texts(at)


def send(at: AppTest, message: str) -> Job:
    at.text_input(key="compare_message").set_value(message)
    settle(next(button for button in at.button if button.label == "Send").click().run())
    job = engine().job(at.session_state["compare_run"])
    assert job is not None
    wait_for(job)
    settle(at.run())
    return job


def test_a_chat_goes_on_with_each_arms_own_history_and_starts_over(steering_work: Work) -> None:
    at = open_compare(steering_work)
    first = generate_and_wait(at).result().generations
    second = send(at, "And the <script>dog</script>?")
    assert second.request.histories == tuple(
        (Turn("user", "The old cat sees the house."), Turn("assistant", text.text))
        for text in first
    )
    page = texts(at)
    assert "<b>you:</b> The old cat sees the house." in page
    assert "<script>" not in page.replace("And the <script>dog</script>?", "")
    assert "have changed since" not in page
    third = send(at, "And now?")
    assert [len(history) for history in third.request.histories] == [4, 4]
    assert third.request.histories[1][2].text == "And the <script>dog</script>?"
    settle(at.button(key="compare_start_over").click().run())
    assert "<b>you:</b>" not in texts(at)
    assert at.text_area(key="compare_prompt").value == "The old cat sees the house."


def test_a_shared_history_is_labelled(steering_work: Work) -> None:
    at = open_compare(steering_work)
    generate_and_wait(at)
    at.toggle(key="compare_shared_history").set_value(True)
    job = send(at, "And now?")
    assert len(set(job.request.histories)) == 1
    assert "shared history" in texts(at)


def test_several_prompts_are_no_chat(steering_work: Work) -> None:
    at = open_compare(steering_work)
    at.segmented_control(key="compare_source").set_value("lines")
    settle(at.run())
    at.text_area(key="compare_lines").set_value("The dog\nThe cat")
    settle(at.run())
    generate_and_wait(at)
    assert not [box for box in at.text_input if box.key == "compare_message"]


def a_vector() -> str:
    """The hash that a vector of the tiny model is kept under."""
    return store().tensors.put({"vector": np.full(32, 0.5, dtype=np.float32)})


def test_a_session_brings_back_its_arms_samples_and_schedule(tiny_sae_dir: Path) -> None:
    arms = (
        Arm("told", "prompted", instruction="In French."),
        Arm("mine", edits=(Edit(1, tensors=a_vector()),), strength=0.4),
    )
    session = saved.session(sae=str(tiny_sae_dir))
    assert session.recipe is not None
    asked = session.recipe.request
    steered = replace(asked.arms[1], schedule=Schedule("first", first=3, decay=0.5))
    sampling = replace(asked.sampling, samples=2, temperature=0.5)
    asked = replace(asked, arms=(UNSTEERED, steered, *arms), sampling=sampling)
    recipe = replace(session.recipe, request=asked)
    kept = store().sessions.save(replace(session, recipe=recipe, result=None))
    at = open_page("compare", open=kept.id)
    request = request_of(at)
    assert request.arms == asked.arms
    assert request.sampling == sampling
    assert not errors(at)


def test_a_session_without_an_unsteered_arm_is_compared_with_its_first(tiny_sae_dir: Path) -> None:
    session = saved.session(sae=str(tiny_sae_dir))
    assert session.recipe is not None
    steered = session.recipe.request.arms[1]
    arms = (replace(steered, name="*mine*"), replace(steered, name="other", strength=0.1))
    recipe = replace(session.recipe, request=replace(session.recipe.request, arms=arms))
    written = tuple(
        Generation(0, saved.PROMPT, arm.name, "The same.", (1,), "stop") for arm in arms
    )
    result = replace(saved.result(), recipe=recipe, generations=written, sizes=(None, None))
    kept = store().sessions.save(replace(session, recipe=recipe, result=result))
    at = open_page("compare", open=kept.id)
    page = texts(at)
    assert r"the same text as \*mine\*" in page
    assert "ended before a stop text" in page
    assert at.session_state["work"].basket == {7: 2.5, 3: 1.5}
    assert at.session_state["work"].strength == 0.8
    assert [one.arm.name for one in form_of(at).arms] == ["other"]
    assert not errors(at)


def test_a_strength_that_was_measured_can_be_taken(
    steering_work: Work,
) -> None:
    at = open_compare(steering_work)
    assert "not measured yet" in texts(at)
    assert not at.get("vega_lite_chart")
    instruction = steering_work.instruction_record()
    assert instruction is not None
    contents = ("a", "b")
    request = EvaluationRequest(
        instruction, (steering_work.sae_id,), contents, ("w",), contents, ("w",)
    )
    cells = tuple(
        cell(strength, strict, disorder, k=1, layers=(1,))
        for strength, strict, disorder in ((0.5, 0.2, 0.0), (0.8, 0.46, 0.02), (2.0, 0.9, 0.6))
    )
    evaluation = Evaluation(
        request,
        engine().model_id,
        "a" * 64,
        ("b" * 64,),
        "float32",
        cells,
        (),
        "saif",
        1.0,
        made=made_of(cells, steering_work.sae_id),
        content_measure="chrf",
    )
    store().evaluations.save(evaluation, [])
    settle(at.run())
    told = "useful 23% [12–62], strict 46%, disorder 2% at 0.8; at most 20% disorder up to 0.8"
    assert escape_markdown(told) in texts(at)
    assert len(at.get("vega_lite_chart")) == 1
    settle(at.button(key="compare_use_measured").click().run())
    assert at.session_state["work"].strength == 0.8
    assert at.slider(key="compare_strength").value == 0.8
    settle(at.selectbox(key="compare_scope").set_value("all").run())
    assert "not measured yet" in texts(at)
    assert not at.get("vega_lite_chart")


def test_the_shared_page_and_an_exported_file_have_all_arms(steering_work: Work) -> None:
    at = open_compare(steering_work)
    lab = add_arm(at, "random")
    set_in(at, "text_input", lab, "name", "<b>mine</b>")
    result = generate_and_wait(at).result()
    session = replace(saved.session(), recipe=result.recipe, result=result)
    again = import_session(export_session(session).encode(), filename="a.json")
    assert again.result == result
    share_id = store().sessions.share(store().sessions.save(again).id)
    page = texts(open_page("shared", session=share_id))
    assert f"**{escape_markdown('<b>mine</b>')}**" in page
    assert "<b>mine</b>" not in page
    assert "as much as latent 7 in a random direction" in page
    random = result.generations[2].text
    assert diff_html(result.generations[0].text, random) in page


def test_what_a_newcomer_cannot_know_is_explained(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_arm(at, "random")
    set_in(at, "toggle", one, "on_dial", False)
    add_arm(at, "prompted")
    add_source(at, "saif")
    generate_and_wait(at)
    check_explained(
        at,
        strength="Strength: 1|Strength follows|Strength|Decay of the strength",
        latent="latent",
        coefficient="coefficient|Steer with",
        basket="Steer with",
        promote="promotes",
        arm="Arms",
        instruction="Instruction|Prompt, without",
        seed="Seed|Seed of the draw",
        scope="Steer|Scope and schedule",
        schedule="Scope and schedule",
        layer="After block|Method and layer",
        decay="Decay of|Power of",
        steering_method="Steering method",
        temperature="Temperature",
        top_p="Top p",
        token="Tokens at most|How many tokens",
        chat_template="Prompts go through",
        KL_divergence="Mark",
    )
