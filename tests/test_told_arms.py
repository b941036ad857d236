"""Arms that are steered and prompted at once, in texts, in evaluations and in the terminal."""

from dataclasses import replace

import pytest

from app.cli.arm_specs import parse_arm
from app.cli.candidates import Named, make_candidates, named_candidates
from app.presentation.arms import describe_arm
from saif_core.errors import EvaluatorError, SteeringError
from saif_core.evaluating.evaluation import evaluate
from saif_core.evaluating.plan import check_request
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.evaluation import Candidate, EvaluationRequest
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.writing.run import generate
from tests import tiny

CONTENTS = tuple(tiny.contents(8))
ASKED = tiny.PLANTED_WORD


@pytest.fixture
def edit(sae: LoadedSae) -> Edit:
    return Edit(sae.layer, sae_id=sae.id, latents=(ChosenLatent(3, 2.0),))


def request_(sae: LoadedSae) -> EvaluationRequest:
    arguments = {"instruction_id": "keywords:existence", "arguments": '{"keywords": ["oui"]}'}
    return EvaluationRequest(
        Instruction("planted", "", "ifeval", arguments, (Wording(ASKED),)),
        (sae.id,),
        rank_contents=CONTENTS[:4],
        rank_wordings=(ASKED,),
        test_contents=CONTENTS[4:],
        test_wordings=(f"{ASKED} .", ASKED),
        candidates=(Candidate("saif"), Candidate("saif", prompted=True)),
        controls=("random",),
        strengths=(1.0,),
        read="last-token",
        sampling=Sampling(max_new_tokens=3),
    )


def test_the_prompt_holds_the_instruction_and_the_edits_are_written(
    builder: ArmBuilder, edit: Edit
) -> None:
    both = Arm("both", edits=(edit,), instruction=f" {ASKED} ")
    sampling = Sampling()
    assert builder.prompt(both, "one two", sampling) == builder.prompt(
        Arm("prompted", "prompted", instruction=ASKED), "one two", sampling
    )
    assert builder.prompt(replace(both, instruction=" "), "one", sampling) == builder.prompt(
        UNSTEERED, "one", sampling
    )
    assert len(builder.write(both).steering) == 1
    assert (both.is_told, replace(both, instruction="").is_told, UNSTEERED.is_told) == (
        *(True, False, False),
    )
    assert f"“ {ASKED} ” after the prompt" in describe_arm(both)


def test_the_text_of_a_told_arm_differs_from_both(
    model: LoadedModel, sae: LoadedSae, edit: Edit
) -> None:
    push = replace(edit, latents=(ChosenLatent(3, 24.0),))
    arms = (
        UNSTEERED,
        Arm("prompted", "prompted", instruction=ASKED),
        Arm("steered", edits=(push,)),
        Arm("both", edits=(push,), instruction=ASKED),
    )
    asked = GenerationRequest(("one two",), arms, Sampling(max_new_tokens=6))
    texts = {g.arm: g.token_ids for g in generate(model, {sae.id: sae}, asked).generations}
    assert len(set(texts.values())) == 4


def test_an_evaluation_measures_steering_on_top_of_prompting(
    model: LoadedModel, sae: LoadedSae
) -> None:
    evaluation, texts = evaluate(model, [sae], request_(sae))
    by_arm = {(cell.setting.arm, cell.setting.of): n for n, cell in enumerate(evaluation.cells)}
    assert {"saif", "saif and prompted"} <= {arm for arm, _ in by_arm}
    # The model answers the planted word, so its prompt alone is enough for the random control.
    random = evaluation.cells[by_arm["random", "saif and prompted"]]
    assert random.rates.strict > evaluation.cells[by_arm["random", "saif"]].rates.strict
    assert len(evaluation.made) == 2
    assert evaluation.made[0].edits == evaluation.made[1].edits
    assert evaluation.made_for(random.setting) is not None
    assert len(texts) == len(evaluation.cells) * 4


def test_it_needs_a_wording(sae: LoadedSae) -> None:
    asked = replace(request_(sae), baselines=(), test_wordings=())
    with pytest.raises(EvaluatorError, match="no wording to prompt with"):
        check_request(asked)
    check_request(replace(asked, candidates=asked.candidates[:1]))


def test_both_are_named_in_a_terminal() -> None:
    named = named_candidates(["saif", "saif+prompt", "saif:clamp+prompt", "saif"], "")
    assert named == [
        Named("saif", ""),
        Named("saif", "", True),
        Named("saif", "clamp", True),
    ]
    assert [one.arm for one in make_candidates(named, (), ())] == [
        "saif",
        "saif and prompted",
        "saif by clamp and prompted",
    ]
    spec = parse_arm("saif:instruction=Say it, please,position=before,strength=2")
    assert spec.fields_of(Arm) == {
        "instruction": "Say it, please",
        "position": "before",
        "strength": 2.0,
    }
    with pytest.raises(SteeringError, match="unknown|does not take|prompted"):
        parse_arm("prompted:strength=2")
