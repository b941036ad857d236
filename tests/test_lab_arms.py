from dataclasses import asdict, replace

import pytest

from app.dashboard.compare.lab_arms import (
    ARM_CHOICES,
    CONTROLS,
    LabArm,
    free_name,
    new_arm,
    request_problem,
    saved_arms,
)
from app.dashboard.compare.steering_form import SteeringForm
from app.dashboard.fields.schedule_fields import Schedule
from app.dashboard.work import Work
from saif_core.records.prompts import Turn
from saif_core.records.ranking import ChosenLatent, LatentScore
from saif_core.records.steering import Arm, GenerationRequest, SteeringEdit
from tests import saved

SAE = "tiny/layer1"


def work() -> Work:
    in_hand = Work(sae_id=SAE, strength=0.8, instruction="translate-to-french")
    in_hand.add_latent(7, 2.5)
    in_hand.add_latent(3, 1.5)
    in_hand.ranking = saved.ranking()
    return in_hand


def steered() -> Arm:
    return SteeringForm(prompt="p").request(work()).all_arms[1]


def test_controls_are_of_what_is_steered_and_follow_basket_dial_and_method() -> None:
    in_hand, form = work(), SteeringForm(prompt="p", method="clamp")
    for kind in CONTROLS:
        form.arms.append(new_arm(kind, in_hand, Schedule(), form.arm_names(), layer=1))  # type: ignore[arg-type]
    in_hand.add_latent(9, 1.0)
    in_hand.strength = 1.7
    request = form.request(in_hand)
    _, main, *controls = request.all_arms
    assert [arm.kind for arm in controls] == list(CONTROLS)
    for arm in controls:
        assert arm.edits == main.edits
        assert arm.strength == 1.7
    assert main.edits[0].method == "clamp"
    assert [latent.index for latent in main.edits[0].latents] == [7, 3, 9]


def test_an_arm_of_its_own_strength_leaves_the_dial() -> None:
    lab = new_arm("clamp", work(), Schedule("all"), ["steered"], layer=1)
    lab.on_dial, lab.arm = False, replace(lab.arm, strength=0.3)
    now = lab.now(work(), steered())
    assert (now.strength, now.scope) == (0.3, "all")
    assert now.edits == (SteeringEdit(SAE, work().basket_latents(), method="clamp"),)


def test_denoised_takes_the_largest_mean_differences_as_coefficients() -> None:
    in_hand = work()
    scores = [LatentScore(i, 0.0, 1.0, 0.0, 1.0, 0.0, d) for i, d in ((1, 0.5), (2, -3.0), (4, 0))]
    in_hand.ranking = replace(saved.ranking(), latents=tuple(scores))
    (edit,) = new_arm("denoised", in_hand, Schedule(), [], layer=1).arm.edits
    assert edit.latents == (ChosenLatent(2, -3.0), ChosenLatent(1, 0.5))
    assert edit.sae_id == SAE


def test_prompted_begins_with_a_wording_and_one_latent_with_the_first_of_the_basket() -> None:
    prompted = new_arm("prompted", work(), Schedule(), [], layer=1).arm
    instruction = work().instruction_record()
    assert instruction is not None
    assert prompted.instruction == instruction.wordings[0].text
    (edit,) = new_arm("one-latent", work(), Schedule(), [], layer=1).arm.edits
    assert edit.latents == (ChosenLatent(7, 2.5),)


def test_names_are_free_and_copies_are_arms_of_their_own() -> None:
    assert free_name("clamped", ["steered"]) == "clamped"
    assert free_name("clamped", ["clamped"]) == "clamped 2"
    assert free_name("clamped 2", ["clamped", "clamped 2"]) == "clamped 3"
    assert len(free_name("x" * 60, ["x" * 60])) <= 60
    lab = LabArm(Arm("a", seed=3), on_dial=False)
    copy = lab.copy(["a"])
    assert (copy.arm.name, copy.arm.seed, copy.on_dial) == ("a 2", 3, False)
    assert copy.uid != lab.uid


@pytest.mark.parametrize("choice", [c for c in ARM_CHOICES if c != "mean-difference"])
def test_a_session_brings_each_arm_back_as_it_was(choice: str) -> None:
    in_hand, form = work(), SteeringForm(prompt="p")
    form.arms.append(new_arm(choice, in_hand, Schedule("all", 2), [], layer=1))  # type: ignore[arg-type]
    arms = form.request(in_hand).arms
    (lab,) = saved_arms(replace(saved.recipe(), arms=arms))
    assert (lab.on_dial, lab.on_basket) == (True, form.arms[0].on_basket)
    assert (lab.now(in_hand, steered()),) == arms


def test_saved_arms_that_do_not_follow_stay_as_they_are() -> None:
    arm = Arm("mine", edits=(SteeringEdit(vector=(1.0, 2.0), layer=1),), strength=0.4)
    (lab,) = saved_arms(replace(saved.recipe(), arms=(arm,)))
    assert lab.now(replace(work(), strength=2.0), steered()) == arm


def test_numbers_of_a_file_are_brought_into_what_the_fields_can_show() -> None:
    odd = Arm("n" * 500, strength=1e9, first=-4, decay=-1.0, decay_power=1e9, seed=-1)
    (lab,) = saved_arms(replace(saved.recipe(), arms=(odd,)))
    assert len(lab.arm.name) == 60
    assert (lab.arm.strength, lab.arm.first, lab.arm.decay, lab.arm.seed) == (100.0, 1, 0.0, 0)
    assert lab.arm.decay_power == 5.0


def test_the_form_takes_everything_of_a_request_and_begins_a_chat_again() -> None:
    request = GenerationRequest(
        SAE,
        ("and then?",),
        work().basket_latents(),
        strength=0.8,
        scope="first",
        first=5,
        decay=0.5,
        decay_power=2.0,
        keep_norm=True,
        temperature=0.5,
        samples=3,
        histories=((Turn("user", "Hello"), Turn("assistant", "Hi")),) * 2,
    )
    form = SteeringForm()
    form.take(request, [])
    assert form.prompts() == ("Hello",)
    assert asdict(form.schedule) == {
        "scope": "first",
        "first": 5,
        "decay": 0.5,
        "decay_power": 2.0,
        "keep_norm": True,
    }
    assert form.request(work()).samples == 3
    form.sampled = False
    assert form.request(work()).samples == 1


def test_token_probabilities_are_asked_for_up_to_sixteen_texts() -> None:
    form = SteeringForm(source="lines", lines="\n".join("abcdefgh"))
    assert form.request(work()).divergence
    form.lines += "\ni"
    assert form.request(work()).n_texts == 18
    assert not form.request(work()).divergence


def request(**changes: object) -> GenerationRequest:
    plain = GenerationRequest(SAE, ("p",), work().basket_latents())
    return replace(plain, **changes)  # type: ignore[arg-type]


VECTOR = (SteeringEdit(vector=(1.0,), layer=1),)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (request(prompts=()), "Write a prompt first."),
        (request(latents=()), "Choose at least one latent first."),
        (request(arms=(Arm("steered", edits=VECTOR),)), "Two arms are called “steered”"),
        (
            request(arms=tuple(Arm(f"a{i}", edits=VECTOR) for i in range(7))),
            "There are 9 arms, but the page compares at most 8; remove some.",
        ),
        (
            request(
                prompts=("p",) * 20,
                samples=6,
                arms=(Arm("a", edits=VECTOR),),
            ),
            "20 prompts × 3 arms × 6 samples are 360 texts, but at most 256 are written at once",
        ),
        (request(arms=(Arm(" "),)), "An arm has no name"),
        (request(arms=(Arm("a", "prompted"),)), "Arm “a” has no instruction"),
        (request(arms=(Arm("a", edits=(SteeringEdit(layer=1),)),)), "nothing to steer with yet"),
        (
            request(arms=(Arm("a", edits=(SteeringEdit("/etc", (ChosenLatent(1, 1.0),)),)),)),
            "Arm “a” needs the SAE /etc, not offered here",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_told_before_it_is_tried(
    asked: GenerationRequest, sentence: str
) -> None:
    assert sentence in request_problem(asked, [SAE])


def test_a_request_that_can_be_carried_out_has_no_problem() -> None:
    assert request_problem(request(arms=(Arm("a", edits=VECTOR),)), [SAE]) == ""
