from dataclasses import replace
from typing import Any

import pytest

from app.dashboard.compare.compare_arms import (
    CompareArm,
    SourceChoice,
    control_arm,
    free_name,
    further_arms,
    main_arm,
    prompted_arm,
    request_problem,
    sae_at,
    source_arm,
    take_arm,
)
from app.dashboard.compare.open_session import take_up
from app.dashboard.compare.steering_form import SteeringForm
from app.dashboard.work import Work
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import CONTROLS, EvaluationRequest
from saif_core.records.prompts import Instruction, Turn
from saif_core.records.questions import LearnRequest
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Origin,
    Sampling,
    Schedule,
)
from saif_core.registry import SOURCES
from tests import saved

SAE, LAYER = "tiny/layer1", 1
VECTOR = (Edit(1, tensors="f" * 64),)
LATENTS = (Edit(LAYER, sae_id=SAE, latents=(ChosenLatent(7, 2.5), ChosenLatent(3, 1.5))),)


def work() -> Work:
    in_hand = Work(sae_id=SAE, strength=0.8, instruction="translate-to-french")
    in_hand.add_latent(7, 2.5)
    in_hand.add_latent(3, 1.5)
    in_hand.ranking = saved.ranking()
    return in_hand


def steered() -> Arm:
    return SteeringForm(prompt="p").steered(work(), LAYER)


def test_controls_are_of_what_is_steered_and_follow_basket_dial_and_method() -> None:
    in_hand, form = work(), SteeringForm(prompt="p", method="clamp")
    for kind in CONTROLS:
        form.arms.append(control_arm(kind, Schedule(), form.arm_names()))
    in_hand.add_latent(9, 1.0)
    in_hand.strength = 1.7
    _, main, *controls = form.request(in_hand, LAYER).arms
    assert [arm.kind for arm in controls] == list(CONTROLS)
    for arm in controls:
        assert arm.edits == main.edits
        assert arm.strength == 1.7
    assert main.edits[0].method == "clamp"
    assert [latent.index for latent in main.edits[0].latents] == [7, 3, 9]


def test_an_arm_of_its_own_strength_leaves_the_dial() -> None:
    one = control_arm("random", Schedule("all"), ["steered"])
    one.on_dial, one.arm = False, replace(one.arm, strength=0.3)
    now = one.now(work(), steered())
    assert (now.strength, now.schedule.scope) == (0.3, "all")
    assert now.edits == LATENTS


def test_a_control_keeps_the_norm_of_its_own() -> None:
    one = control_arm("random", Schedule(), [])
    assert not one.now(work(), steered()).edits[0].keep_norm
    one.keep_norm = True
    assert one.now(work(), steered()).edits == (replace(LATENTS[0], keep_norm=True),)


@pytest.mark.parametrize("source", SOURCES.names())
def test_every_source_is_an_arm_with_its_defaults(source: str) -> None:
    one = source_arm(source, work(), Schedule("all"), ["saif"], LAYER)
    assert one.choice is not None
    parameters = {parameter.name for parameter in SOURCES.get(source).parameters}
    assert set(one.choice.parameters) == parameters
    assert (one.choice.sae_id, one.choice.layer) == (SAE, LAYER)
    assert one.arm.schedule == Schedule("all")
    assert one.arm.name == ("saif 2" if source == "saif" else source.replace("_", " "))
    assert one.choice.waits == (source == "vector")
    assert not one.choice.lacks


def test_the_basket_is_taken_as_it_is_now() -> None:
    in_hand = work()
    one = source_arm("basket", in_hand, Schedule(), [], LAYER)
    in_hand.clear()
    assert one.choice is not None
    assert one.choice.parameters == {"latents": "7:2.5,3:1.5"}


def test_what_a_source_is_asked_for_holds_the_pairs_in_hand_or_none() -> None:
    in_hand = work()
    choice = SourceChoice("saif", {"top": 3}, "clamp", {}, SAE, LAYER)
    bare = RankingRequest(SAE, "translate-to-french", ())
    # What is trained learns from answers that somebody judges.
    judged = replace(bare, judged_by=in_hand.instruction_record())
    assert judged.judged_by is not None
    asked = LearnRequest(judged, "saif", {"top": 3}, "clamp", {}, sae_ids=(SAE,))
    assert choice.request(in_hand) == asked
    in_hand.ranking_request = replace(bare, selector="correlation")
    ranking = replace(judged, selector="correlation")
    assert choice.request(in_hand) == replace(asked, ranking=ranking)
    elsewhere = replace(choice, sae_id="", layer=0).request(in_hand)
    assert (elsewhere.sae_ids, elsewhere.layers) == ((), (0,))


def test_a_layer_has_the_sae_in_hand_or_one_that_is_offered_for_it() -> None:
    layers = {"other": 1, SAE: 1, "lower": 0}
    assert [sae_at(layer, work(), layers) for layer in (1, 0, 2)] == [SAE, "lower", ""]


def test_prompted_begins_with_a_wording() -> None:
    prompted = prompted_arm(work(), []).arm
    instruction = work().instruction_record()
    assert instruction is not None
    assert prompted.instruction == instruction.wordings[0].text


def test_names_are_free_and_copies_are_arms_of_their_own() -> None:
    assert free_name("clamped", ["steered"]) == "clamped"
    assert free_name("clamped", ["clamped"]) == "clamped 2"
    assert free_name("clamped 2", ["clamped", "clamped 2"]) == "clamped 3"
    assert len(free_name("x" * 60, ["x" * 60])) <= 60
    one = CompareArm(Arm("a", seed=3), on_dial=False)
    copy = one.copy(["a"])
    assert (copy.arm.name, copy.arm.seed, copy.on_dial) == ("a 2", 3, False)
    assert copy.uid != one.uid


@pytest.mark.parametrize("kind", ["prompted", *CONTROLS])
def test_a_session_brings_each_arm_back_as_it_was(kind: str) -> None:
    in_hand, form = work(), SteeringForm(prompt="p")
    one = (
        prompted_arm(in_hand, [])
        if kind == "prompted"
        else control_arm(kind, Schedule("all", 2), [])  # type: ignore[arg-type]
    )
    one.keep_norm = True if kind == "random" else None
    form.arms.append(one)
    arms = form.request(in_hand, LAYER).arms
    (back,) = further_arms(arms, main_arm(arms))
    assert (back.follows, back.keep_norm) == (one.follows, one.keep_norm)
    assert back.on_dial == (kind != "prompted")
    assert back.now(in_hand, steered()) == replace(arms[2], strength=back.arm.strength)
    in_hand.strength = 2.0
    if kind != "prompted":
        assert back.now(in_hand, steered()).strength == 2.0


def test_what_a_source_made_comes_back_with_what_makes_it_again() -> None:
    made = Arm(
        "mine",
        edits=(replace(LATENTS[0], method="clamp"),),
        origin=Origin("saif", {"top": 2}),
    )
    choice = SourceChoice("saif", {"top": 2}, "clamp", {}, SAE, LAYER)
    assert take_arm(made, []).choice == choice
    assert take_arm(made, []).made == choice
    gone = replace(made, origin=Origin("no longer here"))
    assert take_arm(gone, []).choice is None


def test_latents_without_a_source_come_back_as_a_basket_that_can_be_changed() -> None:
    one = take_arm(Arm("mine", edits=LATENTS), [])
    assert one.choice is not None
    assert (one.choice.source, one.choice.parameters) == ("basket", {"latents": "7:2.5,3:1.5"})
    assert one.now(work(), steered()).edits == LATENTS


def test_saved_arms_that_do_not_follow_stay_as_they_are() -> None:
    arm = Arm("mine", edits=VECTOR, strength=0.4)
    (one,) = further_arms([*saved.request().arms, arm], saved.request().arms[1])
    assert one.now(replace(work(), strength=2.0), steered()) == arm


def test_numbers_that_fields_could_not_show_are_refused_and_long_names_cut() -> None:
    odd = to_json(Arm("n" * 500))
    for change in ({"strength": 1e9}, {"seed": -1}, {"schedule": {"first": -4}}):
        with pytest.raises(ValueError, match=next(iter(change))):
            from_json(Arm, odd | change)
    assert len(take_arm(from_json(Arm, odd), []).arm.name) == 60


@pytest.mark.parametrize(
    ("arms", "main"),
    [
        ((UNSTEERED, Arm("told", "prompted"), Arm("saif", edits=LATENTS)), "saif"),
        ((Arm("learned", edits=VECTOR), Arm("a", edits=LATENTS), Arm("b", edits=LATENTS)), "a"),
        ((Arm("two", edits=(*LATENTS, *VECTOR)), UNSTEERED), None),
        ((Arm("half", edits=(replace(LATENTS[0], share=0.5),)), UNSTEERED), None),
        ((Arm("r", "random", edits=LATENTS), Arm("saif", edits=LATENTS)), "saif"),
        ((Arm("learned", edits=VECTOR),), None),
    ],
)
def test_arms_of_any_door_are_taken_as_they_are(arms: tuple[Arm, ...], main: str | None) -> None:
    session = replace(
        saved.session(),
        recipe=replace(saved.recipe(), request=replace(saved.request(), arms=arms)),
        result=None,
    )
    in_hand, form = Work(sae_id="other"), SteeringForm()
    take_up(session, in_hand, form)
    rest = [arm for arm in arms if arm.name != main and arm.kind != "unsteered"]
    own = [UNSTEERED] if main is None else [UNSTEERED, replace(steered(), strength=1.0)]
    request = form.request(in_hand, LAYER)
    assert list(request.arms) == [*own, *rest]
    assert in_hand.sae_id == SAE
    assert in_hand.basket == ({} if main is None else {7: 2.5, 3: 1.5})
    assert request.sampling == saved.request().sampling


def test_a_second_unsteered_arm_and_names_of_the_page_are_kept_apart() -> None:
    arms = (UNSTEERED, Arm("plain", "unsteered"), Arm("a", edits=LATENTS), Arm("steered"))
    found = further_arms(arms, arms[2])
    assert [one.arm.name for one in found] == ["plain", "steered 2"]


def test_the_form_takes_everything_of_a_request_and_begins_a_chat_again() -> None:
    main = Arm(
        "mine",
        edits=(replace(LATENTS[0], method="clamp", keep_norm=True),),
        schedule=Schedule("first", first=5, decay=0.5, decay_power=2.0),
    )
    request = GenerationRequest(
        ("and then?",),
        (UNSTEERED, main),
        Sampling(temperature=0.5, samples=3, system="Be kind.", stop=("\n",)),
        histories=((Turn("user", "Hello"), Turn("assistant", "Hi")),) * 2,
    )
    form = SteeringForm()
    form.take(request)
    assert form.prompts() == ("Hello",)
    assert (form.schedule, form.method, form.keep_norm) == (main.schedule, "clamp", True)
    assert form.request(work(), LAYER).sampling == request.sampling
    form.sampling = replace(form.sampling, temperature=0.0)
    assert form.request(work(), LAYER).sampling.samples == 1


def test_arms_that_are_sent_take_the_place_of_their_namesakes_and_of_the_oldest() -> None:
    form = SteeringForm(arms=[CompareArm(Arm(f"a{n}", edits=VECTOR)) for n in range(5)])
    sent = [Arm("a1", edits=VECTOR, strength=0.3), *(Arm(f"b{n}", edits=VECTOR) for n in range(2))]
    form.add(sent)
    assert [one.arm.name for one in form.arms] == ["a2", "a3", "a4", "a1", "b0", "b1"]
    assert form.arms[3].now(work(), steered()) == sent[0]


def test_the_form_steers_and_samples_like_an_evaluation_with_its_own_seed() -> None:
    instruction = Instruction("shout", "", "casing", {}, ())
    request = EvaluationRequest(
        instruction,
        (SAE,),
        *((),) * 4,
        schedule=Schedule(decay=0.2),
        keep_norm=True,
        sampling=Sampling(temperature=0.5, max_new_tokens=24, seed=9),
    )
    form = SteeringForm(prompt="A prompt.", method="clamp", sampling=Sampling(seed=3))
    form.steer_like(request)
    made = form.request(work(), LAYER)
    assert made.prompts == ("A prompt.",)
    assert made.sampling == replace(request.sampling, seed=3)
    assert made.arms[1].schedule == Schedule(decay=0.2)
    assert made.arms[1].edits == (replace(LATENTS[0], keep_norm=True),)


def test_token_probabilities_are_asked_for_up_to_sixteen_texts() -> None:
    form = SteeringForm(source="lines", lines="\n".join("abcdefgh"))
    assert form.request(work(), LAYER).divergence
    form.lines += "\ni"
    assert form.request(work(), LAYER).n_texts == 18
    assert not form.request(work(), LAYER).divergence


def request(*arms: Arm, **changes: Any) -> GenerationRequest:
    plain = GenerationRequest(("p",), (UNSTEERED, steered(), *arms))
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (request(prompts=()), "Write a prompt first."),
        (request(arms=(UNSTEERED,)), "Choose at least one latent first."),
        (request(Arm("steered", edits=VECTOR)), "Two arms are called “steered”"),
        (
            request(*(Arm(f"a{i}", edits=VECTOR) for i in range(7))),
            "There are 9 arms, but the page compares at most 8; remove some.",
        ),
        (
            request(
                Arm("a", edits=VECTOR),
                prompts=("p",) * 20,
                sampling=Sampling(temperature=1.0, samples=6),
            ),
            "20 prompts × 3 arms × 6 samples are 360 texts, but at most 256 are written at once",
        ),
        (request(Arm(" ")), "An arm has no name"),
        (request(Arm("a", "prompted")), "Arm “a” has no instruction"),
        (request(Arm("a", edits=(Edit(1),))), "nothing to steer with yet"),
        (request(Arm("a")), "nothing to steer with yet"),
        (
            request(Arm("a", edits=(Edit(1, sae_id="/etc", latents=(ChosenLatent(1, 1.0),)),))),
            "Arm “a” needs the SAE /etc, not offered here",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_told_before_it_is_tried(
    asked: GenerationRequest, sentence: str
) -> None:
    assert sentence in request_problem(asked, [SAE])


def test_a_request_that_can_be_carried_out_has_no_problem() -> None:
    assert request_problem(request(Arm("a", edits=VECTOR)), [SAE]) == ""
    told = Arm("told", "prompted", instruction="In French.")
    assert request_problem(request(arms=(UNSTEERED, told)), [SAE]) == ""
    assert request_problem(request(arms=(UNSTEERED, Arm("a", edits=VECTOR))), []) == ""


def test_an_empty_basket_leaves_the_steered_arm_out() -> None:
    in_hand, form = work(), SteeringForm(prompt="p", arms=[CompareArm(Arm("a", edits=VECTOR))])
    in_hand.clear()
    assert [arm.name for arm in form.request(in_hand, LAYER).arms] == ["unsteered", "a"]
