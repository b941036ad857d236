"""The form of an evaluation: a field for all that a request can hold, and what it refuses."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Interval
from streamlit.testing.v1 import AppTest

from app.dashboard.evaluate.form import (
    MOST_SETTINGS,
    STRENGTHS,
    check_choice,
    cost_of,
    cost_sentence,
)
from app.dashboard.fields.grid_fields import read_values
from app.dashboard.handles import engine
from app.dashboard.work import Work
from app.presentation.figures import duration
from saif_core.errors import EvaluatorError
from saif_core.evaluating.splitting import split_contents, split_wordings
from saif_core.inputs.latent_lists import format_latents
from saif_core.parameters import Parameter
from saif_core.records.evaluation import (
    CONTROLS,
    MOST_CANDIDATES,
    Candidate,
    EvaluationRequest,
)
from saif_core.records.saes import SaeInfo
from saif_core.records.steering import Sampling, Schedule
from saif_core.registry import SOURCES
from tests.pages import errors, settle, texts
from tests.plugins import take_up
from tests.test_charts_evaluation import REQUEST
from tests.test_views_evaluate import SAY_OUI

pytestmark = pytest.mark.usefixtures("tiny_process")


def test_the_cost_has_room_for_every_control() -> None:
    grid: dict[str, tuple[Any, ...]] = {"top": (5, 15)}
    request = replace(
        REQUEST,
        baselines=("unsteered",),
        candidates=(
            Candidate("saif", grid),
            Candidate("saif", grid, "clamp"),
            Candidate("mean_difference"),
        ),
        controls=CONTROLS,
        strengths=(0.5, 1.0),
    )
    cost = cost_of(request, [1])
    # Every control of what is best of each candidate.
    n_steered = 2 * 2 + 2 * 2 + 2
    assert cost.n_cells == 1 + n_steered + 3 * len(CONTROLS)
    of_all = cost_of(replace(request, controls_of="all"), [1])
    assert of_all.n_cells == 1 + n_steered + n_steered * len(CONTROLS)
    assert cost.n_texts == cost.n_cells * len(REQUEST.test_contents)
    # What is learned from is written too: every wording's answers, and those without one.
    n_answers = len(request.rank_contents) * (len(request.rank_wordings) + 1)
    assert cost.n_learned == n_answers * request.response_tokens
    assert cost.seconds(10.0) == (cost.n_tokens + cost.n_learned) / 10
    assert cost_of(replace(request, read="last-token"), [1]).n_learned == 0
    assert cost_of(replace(request, candidates=(), controls=()), [1]).n_learned == 0
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
    assert read_values(STRENGTHS, text, "Strengths") == values


@pytest.mark.parametrize(
    "text", ["", " , ", "strong", "1, x", "nan", "inf", "-1", "101", "1 2", "0"]
)
def test_lists_that_are_no_numbers_are_answered_with_a_sentence(text: str) -> None:
    with pytest.raises(EvaluatorError, match=r"^Strengths holds .*give "):
        read_values(STRENGTHS, text, "Strengths")


TOP = Parameter("top", Annotated[int, Interval(ge=1, le=1000)], 15, "")


def test_counts_are_whole_and_not_too_many() -> None:
    assert read_values(TOP, "15, 5", "k") == (5, 15)
    with pytest.raises(EvaluatorError, match="holds '1.5', but a value has to be a whole number"):
        read_values(TOP, "1.5", "k")
    with pytest.raises(EvaluatorError, match="holds 21 values"):
        read_values(TOP, ",".join(map(str, range(1, 22))), "k")


def test_nothing_can_be_tried_where_it_is_a_value() -> None:
    latent = Parameter("latent", Annotated[int, Interval(ge=0)] | None, None, "")
    assert read_values(latent, "7, none, 3", "latent") == (None, 3, 7)
    assert read_values(latent, "", "latent") == (None,)
    with pytest.raises(EvaluatorError, match="latent holds 'nothing'"):
        read_values(latent, "nothing", "latent")
    with pytest.raises(EvaluatorError, match="k holds 'none'"):
        read_values(TOP, "none", "k")


def test_wordings_take_turns_and_one_alone_does_both() -> None:
    assert split_wordings(["a", "b", "c"]) == (("a", "c"), ("b",))
    assert split_wordings(["a"]) == (("a",), ("a",))


def test_contents_never_rank_and_test_at_once() -> None:
    assert split_contents(["a", "b", "a", "c", "d"], 2, 2) == (("a", "b"), ("c", "d"))
    with pytest.raises(EvaluatorError, match="3 contents to rank on and 2 to test on are more"):
        split_contents(["a", "b", "c", "c", "d"], 3, 2)


@pytest.mark.parametrize(
    ("changes", "layers", "message"),
    [
        ({"baselines": (), "candidates": (), "controls": ()}, [1], "No arm is chosen"),
        ({"sae_ids": ()}, [], "needs an SAE or a layer"),
        ({"sae_ids": ("s", "t", "u")}, [1, 2, 1], "at layer 1; choose one"),
        ({"candidates": ()}, [1], "has no steered arm to be matched to"),
        ({"rank_wordings": ()}, [1], "No wording is chosen to learn from"),
        (
            {"candidates": (Candidate("saif"),) * (MOST_CANDIDATES + 1)},
            [1],
            f"{MOST_CANDIDATES + 1} steered arms are chosen; choose at most {MOST_CANDIDATES}",
        ),
        (
            {"candidates": (Candidate("saif", {"top": tuple(range(1, MOST_SETTINGS + 1))}),)},
            [1],
            "settings would be measured; give fewer values",
        ),
    ],
)
def test_choices_that_make_no_evaluation_are_answered_with_a_sentence(
    changes: dict[str, Any], layers: list[int], message: str
) -> None:
    infos = [SaeInfo(f"s{n}", "m", "", layer, 64, "") for n, layer in enumerate(layers)]
    with pytest.raises(EvaluatorError, match=message):
        check_choice(replace(REQUEST, **changes), infos)
    check_choice(REQUEST, [SaeInfo("s", "m", "", 1, 64, "")])


def form_script() -> None:
    """The form alone; what it makes goes into the session state."""
    import streamlit as st

    from app.dashboard.evaluate.form import draw_evaluation_form, draw_fields
    from app.dashboard.handles import engine

    if st.session_state.get("fields_only"):
        st.session_state["drawn"] = draw_fields({info.id: info for info in engine().saes()})
    else:
        st.session_state["request"] = draw_evaluation_form()


def open_form(work: Work | None = None, *, fields_only: bool = False) -> AppTest:
    at = AppTest.from_function(form_script, default_timeout=60)
    at.session_state["fields_only"] = fields_only
    if work is not None:
        at.session_state["work"] = work
    return settle(at.run())


def request_of(at: AppTest) -> EvaluationRequest:
    request: EvaluationRequest = at.session_state["request"]
    return request


def test_the_form_has_a_field_for_every_field_of_a_request() -> None:
    at = open_form(Work(sae_id=engine().saes()[0].id), fields_only=True)
    drawn = set(at.session_state["drawn"]) - {"contents"}
    assert drawn == {field.name for field in fields(EvaluationRequest)}


def test_the_form_begins_with_the_defaults_of_a_request() -> None:
    request = request_of(open_form(Work(sae_id=engine().saes()[0].id)))
    given = ("instruction", "sae_ids", "rank_contents", "rank_wordings")
    plain = EvaluationRequest(*(getattr(request, name) for name in given), (), ())
    asked = replace(plain, test_contents=request.test_contents, test_wordings=request.test_wordings)
    assert request == replace(asked, selector_parameters={"compare": "fires"})


def test_whatever_a_request_can_hold_can_be_set_in_the_form() -> None:
    work = Work(instruction=SAY_OUI.name, uploaded={SAY_OUI.name: SAY_OUI})
    work.sae_id = engine().saes()[0].id
    at = open_form(work)
    before = request_of(at)

    at.selectbox(key="evaluation_instruction").set_value("translate-to-german")
    at.multiselect(key="evaluation_saes").set_value([])
    at.text_input(key="evaluation_layers").set_value("0, 1")
    # What depends on these can be set once they are.
    at.selectbox(key="evaluation_scope").set_value("first")
    at.number_input(key="evaluation_decay").set_value(0.25)
    settle(at.run())
    at.multiselect(key="evaluation_sources").set_value(["mean_difference"])
    at.multiselect(key="evaluation_baselines").set_value(["prompted"])
    at.multiselect(key="evaluation_controls").set_value(["flipped", "cue-token"])
    at.toggle(key="evaluation_controls_of").set_value(True)
    at.text_input(key="evaluation_strengths").set_value("0.75")
    at.toggle(key="evaluation_together").set_value(True)
    at.segmented_control(key="evaluation_position").set_value("before")
    at.number_input(key="evaluation_response_tokens").set_value(7)
    at.selectbox(key="evaluation_selector").set_value("correlation")
    at.toggle(key="evaluation_keep_norm").set_value(True)
    at.number_input(key="evaluation_first").set_value(3)
    at.number_input(key="evaluation_decay_power").set_value(0.5)
    at.text_area(key="evaluation_system").set_value("Be brief.")
    at.number_input(key="evaluation_max_new_tokens").set_value(9)
    at.number_input(key="evaluation_temperature").set_value(0.75)
    at.number_input(key="evaluation_top_p").set_value(0.9)
    at.text_area(key="evaluation_stop_before").set_value("END\n\\n\\n")
    at.number_input(key="evaluation_seed").set_value(5)
    for item in at.number_input:
        if item.label.startswith(("Test contents", "Contents to rank")):
            item.set_value(3)
    for item in at.multiselect:
        if item.label in ("To learn from", "To prompt with"):
            item.set_value(item.options[-1:])
    settle(at.run())

    assert not errors(at)
    request = request_of(at)
    # What follows makes fields idle that were set above.
    at.segmented_control(key="evaluation_read").set_value("last-token")
    at.toggle(key="evaluation_chat").set_value(False)
    settle(at.run())
    last = request_of(at)
    assert not last.sampling.chat
    for field in fields(EvaluationRequest):
        changed = last if field.name == "read" else request
        assert getattr(changed, field.name) != getattr(before, field.name), field.name
    assert request.schedule == Schedule("first", 3, decay=0.25, decay_power=0.5)
    sampling = Sampling(True, "Be brief.", 9, 0.75, 0.9, ("END", "\n\n"), 5)
    assert request.sampling == sampling
    # Every content has one text, so there are no samples to ask for.
    left = {f.name for f in fields(Sampling) if getattr(sampling, f.name) == f.default}
    assert left == {"samples", "chat"}
    assert (request.layers, request.together, request.strengths) == ((0, 1), True, (0.75,))
    assert len(request.rank_contents) == len(request.test_contents) == 3
    assert request.rank_wordings == request.test_wordings
    assert len(request.test_wordings) == 1


def test_every_source_is_offered_with_a_field_for_each_parameter() -> None:
    at = open_form(Work(sae_id=engine().saes()[0].id))
    sources = at.multiselect(key="evaluation_sources")
    assert {name.replace(" ", "_") for name in sources.options} == set(SOURCES.names())
    settle(sources.set_value(SOURCES.names()).run())
    drawn = {item.key for kind in ("text_input", "multiselect") for item in getattr(at, kind)}
    for source in SOURCES:
        assert {f"evaluation_source/{source.name}/{p.name}" for p in source.parameters} <= drawn


def test_steering_on_top_of_prompting_is_a_candidate_of_its_own() -> None:
    at = open_form(Work(sae_id=engine().saes()[0].id))
    settle(at.multiselect(key="evaluation_sources").set_value(["saif"]).run())
    both = ["instead of prompting", "on top of prompting"]
    settle(at.segmented_control(key="evaluation_prompted/saif").set_value(both).run())
    assert [one.arm for one in request_of(at).candidates] == ["saif", "saif and prompted"]


PICKY = """
from typing import Annotated, Literal

from annotated_types import Interval


def picky(
    study,
    *,
    share: Annotated[float, Interval(ge=0, le=1)] = 0.25,
    kind: Literal["one", "two"] = "one",
    whole: bool = False,
    note: str = "",
    least: int | None = None,
    asked: str,
):
    '''A <b>source</b> of a person's own.

    Args:
        share: how *much*.
    '''
    for layer in study.layers:
        yield study.edit(layer, vector=share * study.mean_difference(layer))
"""


def test_a_source_that_is_dropped_in_is_offered_with_its_parameters(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAIF_PLUGINS", str(plugin_folder))
    take_up(plugin_folder, sources__picky=PICKY)
    at = open_form(Work(sae_id=engine().saes()[0].id))
    settle(at.multiselect(key="evaluation_sources").set_value(["picky"]).run())
    (message,) = errors(at)
    assert "“asked” is empty; fill it in" in message
    assert request_of(at) is None
    assert "A \\<b\\>source" in texts(at)
    at.text_input(key="evaluation_source/picky/asked").set_value("1, 2")
    at.text_input(key="evaluation_source/picky/share").set_value("0.75, 0.5")
    at.multiselect(key="evaluation_source/picky/kind").set_value(["two", "one"])
    at.multiselect(key="evaluation_source/picky/whole").set_value([True])
    settle(at.text_input(key="evaluation_source/picky/least").set_value("none, 3").run())
    assert not errors(at)
    (candidate,) = request_of(at).candidates
    # What is left as it is keeps the default of the source.
    assert candidate == Candidate(
        "picky",
        {
            "share": (0.5, 0.75),
            "kind": ("one", "two"),
            "whole": (True,),
            "least": (None, 3),
            "asked": ("1, 2",),
        },
    )
    settle(at.text_input(key="evaluation_source/picky/share").set_value("0.5, 2").run())
    (message,) = errors(at)
    assert "share holds '2', but a value has to be a number from 0 to 1" in message
    settle(at.text_input(key="evaluation_source/picky/share").set_value("0.5").run())
    settle(at.multiselect(key="evaluation_source/picky/kind").set_value([]).run())
    (message,) = errors(at)
    assert "No value is chosen for “kind”" in message


def test_each_steering_method_of_a_source_is_an_arm_of_its_own() -> None:
    at = open_form(Work(sae_id=engine().saes()[0].id))
    settle(at.multiselect(key="evaluation_sources").set_value(["denoised", "saif"]).run())
    at.text_input(key="evaluation_source/saif/top").set_value("5")
    settle(at.multiselect(key="evaluation_methods/saif").set_value(["clamp", ""]).run())
    assert request_of(at).candidates == (
        Candidate("saif", {"top": (5,)}),
        Candidate("saif", {"top": (5,)}, "clamp"),
        Candidate("denoised"),
    )
    settle(at.multiselect(key="evaluation_methods/saif").set_value([]).run())
    (message,) = errors(at)
    assert "No steering method is chosen for “saif”" in message


def basket_work() -> Work:
    work = Work(sae_id=engine().saes()[0].id)
    for index, coefficient in ((7, 2.5), (3, 1.25)):
        work.add_latent(index, coefficient)
    return work


def test_the_basket_in_hand_is_offered_where_latents_are_asked_for() -> None:
    work = basket_work()
    at = open_form(work)
    settle(at.multiselect(key="evaluation_sources").set_value(["basket"]).run())
    text = format_latents(work.basket_latents())
    assert request_of(at).candidates == (Candidate("basket", {"latents": (text,)}),)
    button = "evaluation_source/basket/latents/in_hand"
    assert at.button(key=button).disabled
    settle(at.text_input(key="evaluation_source/basket/latents").set_value("9:1").run())
    assert request_of(at).candidates == (Candidate("basket", {"latents": ("9:1",)}),)
    settle(at.button(key=button).click().run())
    assert request_of(at).candidates == (Candidate("basket", {"latents": (text,)}),)
    settle(at.text_input(key="evaluation_source/basket/latents").set_value("nine").run())
    (message,) = errors(at)
    assert "not INDEX\\:COEFFICIENT" in message
    assert request_of(at) is None


@pytest.mark.parametrize("source", ["basket", "vector"])
def test_what_has_to_be_given_is_asked_for(source: str) -> None:
    at = open_form(Work(sae_id=engine().saes()[0].id))
    settle(at.multiselect(key="evaluation_sources").set_value([source]).run())
    (message,) = errors(at)
    assert "is empty; fill it in" in message
    assert request_of(at) is None


def test_latents_by_their_index_are_of_one_sae_alone() -> None:
    at = open_form(basket_work())
    at.text_input(key="evaluation_layers").set_value("0")
    settle(at.multiselect(key="evaluation_sources").set_value(["basket"]).run())
    (message,) = errors(at)
    assert "means something in one SAE alone, but there are 2 layers" in message
    assert request_of(at) is None


def test_the_basket_in_hand_is_of_the_sae_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    info = engine().saes()[0]
    monkeypatch.setattr(engine(), "saes", lambda: [info, replace(info, id="lower", layer=0)])
    at = open_form(basket_work())
    settle(at.multiselect(key="evaluation_sources").set_value(["basket"]).run())
    assert not errors(at)
    settle(at.multiselect(key="evaluation_saes").set_value(["lower"]).run())
    (message,) = errors(at)
    assert "which is not the one that is chosen" in message
    settle(at.text_input(key="evaluation_source/basket/latents").set_value("9:1").run())
    assert not errors(at)
