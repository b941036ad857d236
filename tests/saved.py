"""A saved session with every part, made by hand, for tests that need no model."""

from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent, LatentScore, Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import SteeringRecipe
from saif_core.records.texts import Generation, GenerationResult

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


def recipe(*, sae: str = "tiny/layer1") -> SteeringRecipe:
    """A recipe of two latents."""
    return SteeringRecipe(
        model="tiny",
        model_sha256="a" * 64,
        sae=sae,
        sae_sha256="b" * 64,
        hook_point="blocks.1.hook_resid_post",
        latents=(ChosenLatent(7, 2.5), ChosenLatent(3, 1.5)),
        strength=0.8,
        seed=3,
        instruction=INSTRUCTION.name,
        read="response",
        selector="sensitivity",
        versions={"torch": "2.13"},
    )


def result(*, sae: str = "tiny/layer1") -> GenerationResult:
    """One prompt answered by both arms; the steered text follows the instruction."""
    prompt = "The mayor <i>spoke</i>."
    return GenerationResult(
        recipe=recipe(sae=sae),
        generations=(
            Generation(0, prompt, "unsteered", "Hello & <b>there</b>.", (1, 2, 3), "end", 12.5),
            Generation(0, prompt, "steered", "HELLO & <B>THERE</B>.", (4, 5), "length", None),
        ),
        vector_norm=383.0,
        resid_share=0.44,
        seconds=2.0,
    )


def session(*, sae: str = "tiny/layer1", name: str = "Capitals, first try") -> SteeringSession:
    """A session with every part."""
    return SteeringSession(
        name=name,
        notes="It *shouts*.",
        instruction=INSTRUCTION,
        ranking=ranking(sae=sae),
        recipe=recipe(sae=sae),
        prompts=("The mayor <i>spoke</i>.",),
        result=result(sae=sae),
    )
