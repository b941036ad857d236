"""The cards of further arms on the Compare page."""

import pytest

from app.dashboard.handles import engine
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import SteeringEdit
from tests.compare_page import add_arm, form_of, generate_and_wait, open_compare, set_in
from tests.compare_page import steering_work as steering_work
from tests.pages import errors, settle, texts, wait_for
from tests.tiny import PLANTED_ANSWER, PLANTED_WORD

pytestmark = pytest.mark.usefixtures("tiny_process")


def test_every_arm_writes_a_text_of_its_own(steering_work: Work) -> None:
    at = open_compare(steering_work)
    prompted = add_arm(at, "prompted")
    set_in(at, "text_area", prompted, "instruction", PLANTED_WORD)
    for choice in ("random", "flipped", "logit-bias", "denoised", "clamp"):
        add_arm(at, choice)
    assert at.menu_button(key="compare_add_arm").disabled
    job = generate_and_wait(at)
    texts_of = {text.arm: text.text for text in job.result().generations}
    assert list(texts_of) == ["unsteered", "steered", *(lab.arm.name for lab in form_of(at).arms)]
    assert [arm.kind for arm in job.request.arms] == [
        "prompted", "random", "flipped", "logit-bias", "steered", "steered"
    ]  # fmt: skip
    says = {name for name, text in texts_of.items() if PLANTED_ANSWER in text}
    assert {"steered", "prompted", "clamped latents", "denoised mean difference"} <= says
    assert not {"unsteered", "random latents", "flipped sign"} & says
    page = texts(at)
    for name in texts_of:
        assert f"**{escape_markdown(name)}**" in page
    assert not errors(at)


def test_arms_keep_their_own_settings_while_other_pages_are_visited(steering_work: Work) -> None:
    at = open_compare(steering_work)
    lab = add_arm(at, "random")
    set_in(at, "toggle", lab, "on_dial", False)
    set_in(at, "number_input", lab, "strength", 0.5)
    set_in(at, "selectbox", lab, "scope", "all")
    set_in(at, "number_input", lab, "seed", 4)
    set_in(at, "text_input", lab, "name", "<script>*x*</script>")
    settle(at.switch_page("views/sessions.py").run())
    settle(at.switch_page("views/compare.py").run())
    job = generate_and_wait(at)
    (arm,) = job.request.arms
    assert (arm.strength, arm.scope, arm.seed) == (0.5, "all", 4)
    assert arm.name == "<script>*x*</script>"
    page = texts(at)
    assert "<script>" not in page.replace(r"\<script\>", "")
    assert r"\<script\>\*x\*" in page
    settle(at.slider(key="compare_strength").set_value(2.0).run())
    assert form_of(at).arms[0].arm.strength == 0.5


def test_an_arm_is_duplicated_and_removed(steering_work: Work) -> None:
    at = open_compare(steering_work)
    lab = add_arm(at, "random")
    settle(at.button(key=f"arm_{lab.uid}_copy").click().run())
    settle(at.run())
    assert [other.arm.name for other in form_of(at).arms] == ["random latents", "random latents 2"]
    settle(at.button(key=f"arm_{lab.uid}_remove").click().run())
    settle(at.run())
    assert [other.arm.name for other in form_of(at).arms] == ["random latents 2"]


def test_two_arms_of_one_name_keep_generate_off(steering_work: Work) -> None:
    at = open_compare(steering_work)
    lab = add_arm(at, "random")
    set_in(at, "text_input", lab, "name", "steered")
    assert at.button(key="compare_generate").disabled
    assert "Two arms are called “steered”" in texts(at)


def test_one_latent_is_chosen_from_the_basket(steering_work: Work) -> None:
    steering_work.add_latent(3, 1.25)
    at = open_compare(steering_work)
    lab = add_arm(at, "one-latent")
    set_in(at, "selectbox", lab, "latent", 3)
    (arm,) = form_of(at).request(steering_work).arms
    assert arm.edits[0].latents == (ChosenLatent(3, 1.25),)


def test_arms_without_what_they_are_made_of_say_what_to_do(steering_work: Work) -> None:
    steering_work.clear()
    steering_work.ranking = steering_work.ranking_request = None
    steering_work.job_id = ""
    at = open_compare(steering_work)
    for choice in ("one-latent", "denoised", "mean-difference"):
        settle(at.menu_button(key="compare_add_arm").set_value(choice).run())
        assert "first" in at.warning[0].value
    assert form_of(at).arms == []
    settle(at.run())
    assert not at.warning


def test_a_mean_difference_is_read_and_then_steers(steering_work: Work) -> None:
    at = open_compare(steering_work)
    lab = add_arm(at, "mean-difference")
    assert at.button(key="compare_generate").disabled or not lab.job_id
    job = next(job for job in engine().jobs() if job.kind == "mean-difference")
    wait_for(job)
    settle(at.run())
    (edit,) = form_of(at).arms[0].arm.edits
    assert edit == SteeringEdit(vector=job.result()[1], layer=1)
    settle(at.run())
    written = generate_and_wait(at).result().generations[-1]
    assert written.arm == "mean difference"
    assert PLANTED_ANSWER in written.text
