from dataclasses import replace

import pytest

from app.presentation.arms import describe_arm, scope_words
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import UNSTEERED, Arm, Edit, Schedule

TWO = Edit(14, sae_id="s", latents=(ChosenLatent(3, 1.0), ChosenLatent(7, 2.0)))
ONE = Edit(14, sae_id="s", latents=(ChosenLatent(29, 1.0),))
ALL = Schedule("all")


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (UNSTEERED, "nothing is added"),
        (
            Arm("a", "prompted", instruction="Hi", position="before"),
            "the prompt with “Hi” before it",
        ),
        (Arm("a", edits=(TWO,), strength=0.8), "2 latents · strength 0.8"),
        (Arm("a", edits=(ONE,)), "latent 29 · strength 1"),
        (
            Arm("a", edits=(replace(TWO, method="clamp"),)),
            "2 latents set to their coefficients · strength 1",
        ),
        (
            Arm("a", edits=(replace(ONE, method="ablate"),)),
            "latent 29 taken out · strength 1",
        ),
        (
            Arm("a", edits=(Edit(14, tensors="f" * 64), ONE), strength=2.0),
            "a vector after block 14 and latent 29 · strength 2",
        ),
        (
            Arm("a", "random", edits=(TWO,), seed=5),
            "as much as 2 latents in a random direction, seed 5 · strength 1",
        ),
        (Arm("a", "flipped", edits=(TWO,)), "the opposite of 2 latents · strength 1"),
        (
            Arm("a", "logit-bias", edits=(TWO,), schedule=ALL),
            "the tokens promoted by 2 latents, added to the logits alone · strength 1",
        ),
        (
            Arm("a", "cue-token", edits=(TWO,), schedule=ALL),
            "the token promoted most by 2 latents, forced once · strength 1",
        ),
        (
            Arm("a", edits=(replace(ONE, method="own_one"),)),
            "latent 29 by own one · strength 1",
        ),
        (Arm("a", edits=(TWO,), schedule=ALL), "2 latents · strength 1 · prompt and answer"),
        (Arm("a"), "nothing yet · strength 1"),
    ],
)
def test_every_kind_of_arm_is_told_in_words(arm: Arm, words: str) -> None:
    assert describe_arm(arm) == words


def test_a_schedule_is_told_with_its_numbers() -> None:
    edits = (replace(TWO, keep_norm=True),)
    arm = Arm("a", edits=edits, schedule=Schedule("first", first=1, decay=0.25, decay_power=2.0))
    assert scope_words(arm) == (
        "the first token of the answer, strength at token t over (1 + 0.25 × t) ^ 2, norm kept"
    )
    assert scope_words(Arm("a", schedule=Schedule("generated", decay=0.2))) == (
        "the answer only, strength at token t over (1 + 0.2 × t)"
    )
    at_ends = Schedule("prompt-ends", prompt_first=1, prompt_last=3)
    assert scope_words(Arm("a", schedule=at_ends)) == "the first 1 and last 3 prompt tokens"
    assert (
        scope_words(Arm("a", schedule=Schedule("first", first=4)))
        == "the first 4 tokens of the answer"
    )
