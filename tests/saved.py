"""A saved session with every part, made by hand, for tests that need no model."""

from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent, LatentScore, Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Sampling,
    SteeringRecipe,
)
from saif_core.records.texts import ArmSize, Generation, GenerationResult

PROMPT = "The mayor <i>spoke</i>."

INSTRUCTION = Instruction(
    name="all-capitals",
    description="Answer in capitals.",
    evaluator="casing",
    evaluator_parameters={"casing": "upper"},
    wordings=(Wording("Answer in capital letters."),),
)


def ranking(*, sae: str = "tiny/layer1", instruction: str = INSTRUCTION.name) -> Ranking:
    """A ranking of two latents."""
    return Ranking(
        model="tiny",
        model_sha256="a" * 64,
        sae=sae,
        sae_sha256="b" * 64,
        hook_point="blocks.1.hook_resid_post",
        d_sae=64,
        instruction=instruction,
        read="response",
        selector="sensitivity",
        selector_parameters={},
        n_pairs=12,
        top=2,
        latents=(
            LatentScore(7, 0.98, 2.5, 0.25, 1.0, 0.0, 2.5, (" oui", "<b>", "\n")),
            LatentScore(3, 0.5, 1.5, 0.5, 0.75, 0.25, 1.0),
        ),
        n_selective=1,
        seconds=1.5,
        tokens_total=100,
        tokens_computed=50,
        cached=False,
    )


def request(*, sae: str = "tiny/layer1") -> GenerationRequest:
    """One prompt, to be answered unsteered and by two latents."""
    edit = Edit(layer=1, sae_id=sae, latents=(ChosenLatent(7, 2.5), ChosenLatent(3, 1.5)))
    return GenerationRequest(
        prompts=(PROMPT,),
        arms=(UNSTEERED, Arm("steered", edits=(edit,), strength=0.8)),
        sampling=Sampling(seed=3),
        instruction=INSTRUCTION.name,
    )


def recipe(*, sae: str = "tiny/layer1") -> SteeringRecipe:
    """A recipe of two latents."""
    return SteeringRecipe(
        request=request(sae=sae),
        model="tiny",
        model_sha256="a" * 64,
        sae_sha256s={sae: "b" * 64},
        plugin_sha256s={"addition": "c" * 64},
        dtype="float32",
        versions={"torch": "2.13"},
    )


def result(*, sae: str = "tiny/layer1") -> GenerationResult:
    """One prompt answered by both arms; the steered text follows the instruction."""
    return GenerationResult(
        recipe=recipe(sae=sae),
        generations=(
            Generation(0, PROMPT, "unsteered", "Hello & <b>there</b>.", (1, 2, 3), "end", 12.5),
            Generation(0, PROMPT, "steered", "HELLO & <B>THERE</B>.", (4, 5), "length", None),
        ),
        seconds=2.0,
        sizes=(None, ArmSize(norm=383.0, resid_share=0.44)),
    )


def session(*, sae: str = "tiny/layer1", name: str = "Capitals, first try") -> SteeringSession:
    """A session with every part."""
    return SteeringSession(
        name=name,
        notes="It *shouts*.",
        instruction=INSTRUCTION,
        ranking=ranking(sae=sae),
        recipe=recipe(sae=sae),
        result=result(sae=sae),
    )
