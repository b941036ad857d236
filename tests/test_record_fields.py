"""Fields drawn from records: one for each field of them, within its bounds."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
from annotated_types import Gt, Interval, Lt, MaxLen
from streamlit.testing.v1 import AppTest

from app.dashboard.fields.record_fields import draw_record, read_lines, write_lines
from app.dashboard.fields.schedule_fields import draw_keep_norm, draw_sampling, draw_schedule
from app.presentation.arms import SCOPES
from app.presentation.glossary import meaning
from saif_core.records.as_json import Record
from saif_core.records.steering import Sampling, Schedule
from tests.pages import settle


def drawn(draw: Callable[..., Any], *arguments: Any) -> AppTest:
    """A page that draws something and keeps what it made under "made"."""

    def page(draw, arguments):  # type: ignore[no-untyped-def]  # it runs outside this file
        import streamlit as st

        st.session_state["made"] = draw(*arguments, key="x")

    return settle(AppTest.from_function(page, args=(draw, arguments)).run())


def keys(at: AppTest) -> set[str]:
    kinds = ("number_input", "selectbox", "toggle", "text_area", "text_input")
    return {widget.key for kind in kinds for widget in getattr(at, kind)}


@pytest.mark.parametrize(
    ("draw", "record"),
    [
        (draw_schedule, Schedule()),
        (draw_schedule, Schedule("first", 2048, decay=10.0, decay_power=0.0)),
        (draw_sampling, Sampling()),
        (
            draw_sampling,
            Sampling(False, "s" * 20_000, 2048, 10.0, 0.001, ("a\nb", "\\n", " "), 2**40, 64),
        ),
    ],
)
def test_every_field_of_a_record_has_one_that_shows_it(
    draw: Callable[..., Any], record: Any
) -> None:
    at = drawn(draw, record)
    assert keys(at) == {f"x_{field.name}" for field in fields(record)}
    assert at.session_state["made"] == record


def test_fields_give_back_what_is_set_in_them() -> None:
    at = drawn(draw_sampling, Sampling())
    at.toggle(key="x_chat").set_value(False)
    at.number_input(key="x_temperature").set_value(0.7)
    at.text_area(key="x_stop").set_value("one\n\n two \\n")
    settle(at.run())
    assert at.session_state["made"] == Sampling(
        chat=False, temperature=0.7, stop=("one", " two \n")
    )


def test_fields_that_change_nothing_cannot_be_set() -> None:
    at = drawn(draw_sampling, Sampling(chat=False))
    assert at.text_area(key="x_system").disabled
    assert all(at.number_input(key=f"x_{name}").disabled for name in ("top_p", "seed", "samples"))
    at = drawn(draw_sampling, Sampling(temperature=0.5))
    assert not at.text_area(key="x_system").disabled
    assert not at.number_input(key="x_seed").disabled
    at = drawn(draw_schedule, Schedule())
    assert at.number_input(key="x_first").disabled
    assert at.number_input(key="x_decay_power").disabled
    at.selectbox(key="x_scope").set_value("first")
    at.number_input(key="x_decay").set_value(0.5)
    settle(at.run())
    assert not at.number_input(key="x_first").disabled
    assert not at.number_input(key="x_decay_power").disabled
    assert at.number_input(key="x_prompt_first").disabled
    settle(at.selectbox(key="x_scope").set_value("prompt-ends").run())
    assert at.number_input(key="x_first").disabled
    settle(at.number_input(key="x_prompt_first").set_value(0).run())
    settle(at.number_input(key="x_prompt_last").set_value(7).run())
    assert at.session_state["made"] == Schedule(
        "prompt-ends", prompt_first=0, prompt_last=7, decay=0.5
    )


def test_the_scope_is_chosen_in_words_and_help_comes_from_the_docstring() -> None:
    at = drawn(draw_schedule, Schedule())
    scope = at.selectbox(key="x_scope")
    assert sorted(scope.options) == sorted(SCOPES.values())
    assert scope.help.startswith(meaning("scope"))
    assert "Tokens whose residual stream is edited;" in scope.help
    assert at.number_input(key="x_decay_power").help.endswith("See `decay`.")


def test_keeping_the_norm_is_told_as_an_edit_tells_it() -> None:
    at = drawn(draw_keep_norm, True)
    assert at.toggle(key="x_keep_norm").value is True
    assert at.toggle(key="x_keep_norm").help.startswith("Rescale the edited residual stream")


@dataclass(frozen=True)
class Odd(Record):
    """A record of a test's own.

    Attributes:
        share: between the ends, which are none.
        count: of something.
        words: some.
        many: what no form can ask for.
    """

    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    count: Annotated[int, Interval(gt=0, lt=10)] = 3
    words: Annotated[tuple[Annotated[str, MaxLen(3)], ...], MaxLen(2)] = ()
    many: tuple[tuple[int, ...], ...] = ((1,),)


def test_ends_that_are_no_values_cannot_be_set() -> None:
    at = drawn(draw_record, Odd())
    share, count = at.number_input(key="x_share"), at.number_input(key="x_count")
    assert 0 < share.min < share.max < 1
    assert (count.min, count.max) == (1, 9)
    assert at.session_state["made"] == Odd()
    assert drawn(draw_record, Odd(share=1e-9)).session_state["made"] == Odd(share=1e-9)


def test_lines_beyond_the_bounds_are_left_out_and_that_is_said() -> None:
    at = drawn(draw_record, Odd())
    settle(at.text_area(key="x_words").set_value("abcd\nb\nc").run())
    assert at.session_state["made"].words == ("abc", "b")
    assert "Of 3 lines the first 2 are used, each with 3 characters" in at.caption[0].value


@pytest.mark.parametrize("texts", [(), ("a", "b"), ("\n", "\t\r", "\\", "\\n", " x ", "\\\n")])
def test_texts_survive_being_lines(texts: tuple[str, ...]) -> None:
    assert read_lines(write_lines(texts)) == texts
