"""The cards of further arms on the Compare page."""

import io
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown
from app.presentation.token_change_html import changes_html
from saif_core.records.evaluation import CONTROLS
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Arm, Edit, Origin, Sampling, Schedule
from saif_core.registry import SOURCES
from tests import tiny
from tests.compare_page import (
    add_arm,
    add_source,
    form_of,
    generate_and_wait,
    made,
    open_compare,
    request_of,
    set_in,
)
from tests.compare_page import steering_work as steering_work
from tests.pages import errors, open_page, settle, texts, wait_for
from tests.plugins import take_up
from tests.tiny import PLANTED_ANSWER, PLANTED_LATENT, PLANTED_WORD

pytestmark = pytest.mark.usefixtures("tiny_process")


def test_every_arm_writes_a_text_of_its_own(steering_work: Work) -> None:
    at = open_compare(steering_work)
    prompted = add_arm(at, "prompted")
    set_in(at, "text_area", prompted, "instruction", PLANTED_WORD)
    for control in ("random", "flipped", "logit-bias"):
        add_arm(at, control)
    add_source(at, "denoised")
    basket = add_source(at, "basket")
    set_in(at, "selectbox", basket, "method", "clamp")
    settle(at.button(key=f"arm_{basket.uid}_make").click().run())
    assert made(at).arm.edits[0].method == "clamp"
    assert at.menu_button(key="compare_add_arm").disabled
    job = generate_and_wait(at)
    texts_of = {text.arm: text.text for text in job.result().generations}
    assert list(texts_of) == ["unsteered", "steered", *(one.arm.name for one in form_of(at).arms)]
    assert [arm.kind for arm in job.request.arms[2:]] == [
        "prompted", "random", "flipped", "logit-bias", "steered", "steered"
    ]  # fmt: skip
    says = {name for name, text in texts_of.items() if PLANTED_ANSWER in text}
    assert {"steered", "prompted", "basket", "denoised"} <= says
    assert not {"unsteered", "random", "flipped sign"} & says
    page = texts(at)
    for name in texts_of:
        assert f"**{escape_markdown(name)}**" in page
    assert not errors(at)


def test_a_steered_arm_is_prompted_as_well(steering_work: Work) -> None:
    at = open_compare(steering_work)
    prompted = add_arm(at, "prompted")
    set_in(at, "text_area", prompted, "instruction", PLANTED_WORD)
    one = add_source(at, "denoised")
    set_in(at, "toggle", one, "told", True)
    # It is told what the prompted arm is told, until it is told something else.
    assert at.text_area(key=f"arm_{one.uid}_instruction").value == PLANTED_WORD
    set_in(at, "segmented_control", one, "position", "before")
    arm = generate_and_wait(at).request.arms[-1]
    assert (arm.kind, arm.instruction, arm.position) == ("steered", PLANTED_WORD, "before")
    assert arm.edits
    settle(at.switch_page("views/sessions.py").run())
    settle(at.switch_page("views/compare.py").run())
    assert at.toggle(key=f"arm_{one.uid}_told").value
    set_in(at, "toggle", one, "told", False)
    assert generate_and_wait(at).request.arms[-1].instruction == ""
    assert not errors(at)


def test_the_gates_of_an_arm_are_seen_token_by_token(steering_work: Work) -> None:
    judged = {"instruction_id": "keywords:existence", "arguments": '{"keywords": ["oui"]}'}
    name = steering_work.instruction
    steering_work.uploaded = {name: Instruction(name, "", "ifeval", judged, (Wording("Say oui."),))}
    at = open_compare(steering_work)
    one = add_source(at, "gated_latents")
    (edit,) = one.arm.edits
    text = generate_and_wait(at).result().generations[-1]
    assert any(sum(change.gates) > 0 for change in text.changes)
    settle(at.segmented_control(key="texts_mark").set_value("gates").run())
    names = [f"latent {latent.index}" for latent in edit.latents]
    assert at.selectbox(key="texts_gate").options == ["all gates", *names]
    assert changes_html(text.changes, "gates", names=names) in texts(at)
    settle(at.selectbox(key="texts_gate").set_value(names[1]).run())
    shown = changes_html(text.changes, "gates", gate=1, names=names)
    assert shown in texts(at)
    # The page of a latent shows its own gate, that of another latent has none.
    at.query_params["latent"] = str(edit.latents[1].index)
    settle(at.switch_page("views/latent.py").run())
    assert shown in texts(at)
    assert "Where its gate opened" in texts(at)
    other = next(n for n in range(64) if n not in {latent.index for latent in edit.latents})
    at.query_params["latent"] = str(other)
    settle(at.run())
    assert "Where its gate opened" not in texts(at)
    del at.query_params["latent"]
    settle(at.switch_page("views/compare.py").run())
    # Without a gated arm there is nothing to choose.
    settle(at.button(key=f"arm_{one.uid}_remove").click().run())
    generate_and_wait(at)
    assert "gates" not in at.segmented_control(key="texts_mark").options
    assert not errors(at)


def test_every_control_and_every_source_is_offered(steering_work: Work) -> None:
    at = open_compare(steering_work)
    offered = at.menu_button(key="compare_add_arm").options
    assert len(offered) == 1 + len(SOURCES) + len(CONTROLS)
    assert any("Control" in words and "cue token" in words for words in offered)
    cue = add_arm(at, "cue-token")
    text = generate_and_wait(at).result().generations[-1]
    assert (text.arm, cue.arm.kind) == ("cue token", "cue-token")
    assert text.text.split()[0] == PLANTED_ANSWER


def test_arms_keep_their_own_settings_while_other_pages_are_visited(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_arm(at, "random")
    set_in(at, "toggle", one, "on_dial", False)
    set_in(at, "number_input", one, "strength", 0.5)
    set_in(at, "selectbox", one, "scope", "all")
    set_in(at, "toggle", one, "keep_norm", True)
    set_in(at, "number_input", one, "seed", 4)
    set_in(at, "text_input", one, "name", "<script>*x*</script>")
    settle(at.switch_page("views/sessions.py").run())
    settle(at.switch_page("views/compare.py").run())
    assert at.toggle(key=f"arm_{one.uid}_keep_norm").value
    job = generate_and_wait(at)
    _, steered, arm = job.request.arms
    assert (arm.strength, arm.schedule.scope, arm.seed) == (0.5, "all", 4)
    assert (arm.edits[0].keep_norm, steered.edits[0].keep_norm) == (True, False)
    assert arm.name == "<script>*x*</script>"
    page = texts(at)
    assert "<script>" not in page.replace(r"\<script\>", "")
    assert r"\<script\>\*x\*" in page
    settle(at.slider(key="compare_strength").set_value(2.0).run())
    assert form_of(at).arms[0].arm.strength == 0.5


def test_an_arm_is_duplicated_and_removed(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_arm(at, "random")
    settle(at.button(key=f"arm_{one.uid}_copy").click().run())
    settle(at.run())
    assert [other.arm.name for other in form_of(at).arms] == ["random", "random 2"]
    settle(at.button(key=f"arm_{one.uid}_remove").click().run())
    settle(at.run())
    assert [other.arm.name for other in form_of(at).arms] == ["random 2"]


def test_two_arms_of_one_name_keep_generate_off(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_arm(at, "random")
    set_in(at, "text_input", one, "name", "steered")
    assert at.button(key="compare_generate").disabled
    assert "Two arms are called “steered”" in texts(at)


def test_every_field_of_the_records_is_on_the_page_and_on_a_card(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_source(at, "saif")
    kinds = ("number_input", "selectbox", "toggle", "text_area", "text_input")
    keys = {widget.key for kind in kinds for widget in getattr(at, kind)}
    schedule = [field.name for field in fields(Schedule)]
    sampling = [field.name for field in fields(Sampling)]
    assert {f"compare_{name}" for name in (*schedule, *sampling, "keep_norm")} <= keys
    assert {f"arm_{one.uid}_{name}" for name in (*schedule, "keep_norm")} <= keys


def test_one_latent_is_chosen_and_made_again_on_demand(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_source(at, "one_latent")
    (edit,) = one.arm.edits
    assert [latent.index for latent in edit.latents] == [PLANTED_LATENT]
    assert "has changed since it was made" not in texts(at)
    set_in(at, "text_input", one, "name", "mine")
    at.number_input(key=f"arm_{one.uid}_one_latent_latent").set_value(3)
    settle(at.run())
    assert "has changed since it was made" in texts(at)
    assert form_of(at).arms[0].arm.edits == (edit,)
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    again = made(at)
    assert [latent.index for latent in again.arm.edits[0].latents] == [3]
    assert again.arm.origin is not None
    assert again.arm.origin.parameters == {"latent": 3, "beta": 0.0}
    assert again.arm.name == "mine"
    assert "has changed since it was made" not in texts(at)


def test_a_basket_of_its_own_needs_no_ranking(steering_work: Work) -> None:
    steering_work.ranking = steering_work.ranking_request = None
    steering_work.job_id = ""
    at = open_compare(steering_work)
    one = add_source(at, "basket")
    at.text_input(key=f"arm_{one.uid}_basket_latents").set_value("3:1.25, 7:0.5")
    settle(at.run())
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    assert made(at).arm.edits[0].latents == (ChosenLatent(3, 1.25), ChosenLatent(7, 0.5))
    assert request_of(at).arms[1].edits[0].latents == steering_work.basket_latents()
    assert not errors(at)


def test_arms_without_what_they_are_made_of_say_what_to_do(steering_work: Work) -> None:
    steering_work.clear()
    steering_work.ranking = steering_work.ranking_request = None
    steering_work.job_id = ""
    at = open_compare(steering_work)
    for source in ("one_latent", "denoised", "mean_difference"):
        one = add_source(at, source)
        assert one.arm.edits == ()
        assert "There are no prompt pairs" in errors(at)[-1]
        assert texts(at).count("Find the latents of an instruction first") == len(form_of(at).arms)
    add_source(at, "basket")
    assert "The basket is empty" in errors(at)[-1]
    assert at.button(key="compare_generate").disabled


def test_a_mean_difference_is_read_and_then_steers(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_arm(at, "source:mean_difference")
    assert at.button(key="compare_generate").disabled or not one.job_id
    job = next(job for job in engine().jobs() if job.kind == "learn")
    wait_for(job)
    settle(at.run())
    arm = form_of(at).arms[0].arm
    assert (arm.edits, arm.origin) == (job.result().edits, job.result().origin)
    assert arm.edits[0].layer == 1
    settle(at.run())
    written = generate_and_wait(at).result().generations[-1]
    assert written.arm == "mean difference"
    assert PLANTED_ANSWER in written.text


def test_methods_that_need_latents_are_offered_to_arms_that_have_some(steering_work: Work) -> None:
    at = open_compare(steering_work)
    saif, vector = add_source(at, "saif"), add_source(at, "mean_difference")
    offered = [at.selectbox(key=f"arm_{one.uid}_method").options for one in (saif, vector)]
    assert offered[0] == ["as the source writes it", "ablate", "addition", "clamp"]
    assert offered[1] == ["as the source writes it", "addition"]


def test_a_source_writes_after_another_block_too(steering_work: Work) -> None:
    at = open_compare(steering_work)
    one = add_source(at, "mean_difference")
    set_in(at, "number_input", one, "layer", 0)
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    (edit,) = made(at).arm.edits
    assert (edit.layer, edit.sae_id) == (0, "")
    assert not errors(at)
    set_in(at, "number_input", one, "layer", 9)
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    assert made(at).arm.edits == (edit,)
    assert "the model has blocks 0 to 1" in errors(at)[-1]


def file_of(vector: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, vector)
    return stream.getvalue()


def test_an_uploaded_vector_steers(steering_work: Work) -> None:
    steering_work.ranking = steering_work.ranking_request = None
    steering_work.job_id = ""
    steering_work.clear()
    at = open_compare(steering_work)
    one = add_source(at, "vector")
    assert not one.job_id
    assert not errors(at)
    plant = (8 * tiny.plant_direction()).numpy()
    uploader = at.file_uploader(key=f"arm_{one.uid}_vector")
    uploader.upload("mine.npy", file_of(plant[:5]), "application/octet-stream")
    settle(at.run())
    assert "but the residual stream needs" in errors(at)[-1]
    assert made(at).arm.edits == ()
    uploader = at.file_uploader(key=f"arm_{one.uid}_vector")
    uploader.upload("mine.npy", file_of(plant), "application/octet-stream")
    settle(at.run())
    (edit,) = made(at).arm.edits
    assert (edit.layer, edit.latents) == (1, ())
    assert np.allclose(store().tensors.get(edit.tensors)["vector"], plant)
    request = generate_and_wait(at).request
    assert [arm.name for arm in request.arms] == ["unsteered", "vector"]
    assert PLANTED_ANSWER in texts(at)
    settle(at.switch_page("views/sessions.py").run())
    settle(at.switch_page("views/compare.py").run())
    assert f"The vector is kept as {edit.tensors[:12]}" in texts(at)
    assert not errors(at)


OWN = '''
from typing import Annotated, Literal
from annotated_types import Interval
from saif_core.records.ranking import ChosenLatent


def own_one(study, *, latent: Annotated[int, Interval(ge=0, le=63)], sign: Literal["+", "-"] = "+"):
    """One latent of <b>my</b> own.

    Args:
        latent: its *index*.
        sign: of its coefficient.
    """
    value = 6.0 if sign == "+" else -6.0
    yield study.edit(study.layers[0], latents=[ChosenLatent(latent, value)], method="own_method")
'''
METHOD = '''
from typing import Annotated
from annotated_types import Interval


def own_method(resid, target, sae, *, times: Annotated[float, Interval(ge=0, le=2)] = 1.0):
    """The direction, some times."""
    return (times * target.direction).to(resid.dtype).expand_as(resid)
'''


def test_a_source_and_a_method_that_are_dropped_in_appear(
    steering_work: Work, plugin_folder: Path
) -> None:
    take_up(plugin_folder, sources__own_one=OWN, methods__own_method=METHOD)
    at = open_compare(steering_work)
    one = add_source(at, "own_one")
    assert not one.job_id
    assert at.button(key=f"arm_{one.uid}_make").disabled
    assert escape_markdown("One latent of <b>my</b> own.") in texts(at)
    field = at.number_input(key=f"arm_{one.uid}_own_one_latent")
    assert (field.min, field.max) == (0, 63)
    assert field.help.endswith("Its *index*.")
    settle(field.set_value(PLANTED_LATENT).run())
    assert at.selectbox(key=f"arm_{one.uid}_own_one_sign").options == ["+", "-"]
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    (edit,) = made(at).arm.edits
    assert (edit.method, edit.latents) == ("own_method", (ChosenLatent(PLANTED_LATENT, 6.0),))
    set_in(at, "selectbox", one, "method", "own_method")
    set_in(at, "number_input", one, "parameter_own_method_times", 1.5)
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    assert made(at).arm.edits[0].method_parameters == {"times": 1.5}
    assert "own method" in at.selectbox(key="compare_method").options
    result = generate_and_wait(at).result()
    assert PLANTED_ANSWER in result.generations[-1].text
    assert "own_method" in result.recipe.plugin_sha256s
    assert not errors(at)


def test_arms_that_other_pages_send_are_taken_once(steering_work: Work) -> None:
    edit = Edit(1, "clamp", sae_id=steering_work.sae_id, latents=(ChosenLatent(3, 1.0),))
    sent = [
        Arm("unsteered", "unsteered"),
        Arm("saif by clamp", edits=(edit,), strength=1.25, origin=Origin("saif", {"top": 1})),
        Arm("told", "prompted", instruction="In *French*."),
    ]
    at = open_page("sessions", work=steering_work)
    at.session_state["compare_incoming"] = sent
    settle(at.switch_page("views/compare.py").run())
    assert list(request_of(at).arms[2:]) == sent[1:]
    assert "compare_incoming" not in at.session_state
    settle(at.run())
    assert len(form_of(at).arms) == 2
    settle(at.button(key=f"arm_{form_of(at).arms[0].uid}_make").click().run())
    wait_for(next(job for job in engine().jobs() if job.kind == "learn"))
    settle(at.run())
    (again,) = form_of(at).arms[0].now(steering_work, sent[1]).edits
    assert (again.method, [latent.index for latent in again.latents]) == ("clamp", [7])
    assert not errors(at)


def test_an_sae_that_is_not_offered_is_never_loaded(
    steering_work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = Edit(1, sae_id="/etc/<b>sae", latents=(ChosenLatent(3, 1.0),))
    at = open_page("sessions", work=steering_work)
    asked: list[object] = []
    submit = engine().submit
    monkeypatch.setattr(
        engine(), "submit", lambda request: (asked.append(request), submit(request))[1]
    )
    at.session_state["compare_incoming"] = [Arm("mine", edits=(edit,))]
    settle(at.switch_page("views/compare.py").run())
    (one,) = form_of(at).arms
    settle(at.button(key=f"arm_{one.uid}_make").click().run())
    assert "is not offered here" in errors(at)[-1]
    assert "/etc" not in repr(asked)
    assert at.button(key="compare_generate").disabled


def test_an_arm_that_no_source_makes_again_is_written_as_chosen(steering_work: Work) -> None:
    vector = store().tensors.put({"vector": np.ones(32, dtype=np.float32)})
    arm = Arm("mine", edits=(Edit(1, "gone", tensors=vector),), origin=Origin("gone"))
    at = open_page("sessions", work=steering_work)
    at.session_state["compare_incoming"] = [arm]
    settle(at.switch_page("views/compare.py").run())
    (one,) = form_of(at).arms
    method = at.selectbox(key=f"arm_{one.uid}_method")
    assert method.options == ["addition", "gone"]
    assert "gone" in texts(at)
    set_in(at, "selectbox", one, "method", "addition")
    assert request_of(at).arms[2].edits == (replace(arm.edits[0], method="addition"),)
