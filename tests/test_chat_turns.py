from dataclasses import replace
from typing import Any

from app.dashboard.compare.chat_turns import histories_of, is_shared, next_request, turns_html
from saif_core.records.prompts import Turn
from saif_core.records.steering import UNSTEERED, Arm, GenerationRequest
from saif_core.records.texts import Generation, GenerationResult
from tests import saved

TOLD = Arm("told", "prompted", instruction="In French.", position="before")
EARLIER = (Turn("user", "Hi"), Turn("assistant", "Hello"))


def result(**changes: Any) -> GenerationResult:
    arms = (*saved.request().arms, TOLD)
    recipe = replace(saved.recipe(), request=replace(saved.request(), arms=arms, **changes))
    texts = [
        Generation(0, "Go on.", arm, f"{arm} says {sample}", (1,), "end", sample=sample)
        for arm in ("unsteered", "steered", "told")
        for sample in (1, 0)
    ]
    return replace(saved.result(), recipe=recipe, generations=tuple(texts))


def page(*arms: Arm) -> GenerationRequest:
    return GenerationRequest(("prompt box",), arms=(*saved.request().arms, *arms))


def test_each_arm_goes_on_with_its_own_first_sample_as_it_saw_it() -> None:
    asked = next_request(page(TOLD), result(), "And?", shared=False)
    assert asked.prompts == ("And?",)
    assert asked.histories == (
        (Turn("user", "Go on."), Turn("assistant", "unsteered says 0")),
        (Turn("user", "Go on."), Turn("assistant", "steered says 0")),
        (Turn("user", "In French. Go on."), Turn("assistant", "told says 0")),
    )


def test_earlier_turns_stay_before_the_last_one() -> None:
    asked = next_request(page(), result(histories=(EARLIER, (), ())), "And?", shared=False)
    assert asked.histories[0][:2] == EARLIER
    assert len(asked.histories[0]) == 4


def test_a_shared_history_is_the_unsteered_one_for_all() -> None:
    asked = next_request(page(TOLD), result(), "And?", shared=True)
    assert len(asked.histories) == 3
    assert set(asked.histories) == {(Turn("user", "Go on."), Turn("assistant", "unsteered says 0"))}


def test_an_arm_that_was_added_since_begins_with_the_unsteered_chat() -> None:
    new = Arm("new", "prompted", instruction="x")
    asked = next_request(page(new), result(), "And?", shared=False)
    assert asked.histories[2] == asked.histories[0]


def test_without_an_unsteered_arm_the_first_goes_on_for_those_that_are_new() -> None:
    done = result()
    request = replace(done.request, arms=done.request.arms[1:])
    done = replace(
        done,
        recipe=replace(done.recipe, request=request),
        generations=tuple(text for text in done.generations if text.arm != "unsteered"),
    )
    asked = next_request(page(), done, "And?", shared=False)
    assert [arm.name for arm in asked.arms] == [UNSTEERED.name, "steered"]
    assert asked.histories[0] == asked.histories[1]
    assert asked.histories[0][-1] == Turn("assistant", "steered says 0")


def test_a_history_is_shared_only_if_there_is_one_for_all() -> None:
    request = result().request
    assert not is_shared(histories_of(request))
    assert is_shared(histories_of(replace(request, histories=(EARLIER,) * 3)))
    assert not is_shared(histories_of(replace(request, histories=(EARLIER, (), EARLIER))))


def test_turns_are_escaped() -> None:
    shown = turns_html((Turn("user", "<script>x</script>"), Turn("assistant", "a & b")))
    assert "<script>" not in shown
    assert "&lt;script&gt;x" in shown
    assert "a &amp; b" in shown
    assert shown.index("you:") < shown.index("model:")
