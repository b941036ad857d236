"""Records with something in every field, for the tests of the store."""

from dataclasses import replace
from typing import Any

from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent, LatentScore, Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import SteeringRecipe
from saif_core.records.texts import Generation, GenerationResult

# Quotes, wildcards, escapes, emoji, right-to-left text, NUL and half a surrogate pair.
ODD_TEXT = "'; DROP TABLE sessions; -- \" %_\\ 中文 שלום 🇫🇷 e\u0301 \x00 \ud83d"


def sample_session(name: str = "French", **changes: Any) -> SteeringSession:
    """A complete session; ``changes`` replace fields of it."""
    recipe = SteeringRecipe(
        model="tiny",
        model_sha256="aa",
        sae="tiny/layer1",
        sae_sha256="bb",
        hook_point="blocks.1.hook_resid_post",
        latents=(ChosenLatent(7, 1.5),),
        method_parameters={"sign": -1, "nested": {"a": [1, 2]}},
        instruction="translate-to-french",
    )
    generation = Generation(0, "one", "steered", "un", (1, 2), "end", perplexity=3.25)
    session = SteeringSession(
        name=name,
        notes="α = µ + βσ",
        instruction=Instruction(
            "translate-to-french",
            "Answers in French",
            "language",
            {"language": "fr"},
            (Wording("Translate the sentence to French."), Wording("Traduis la phrase.", "fr")),
        ),
        ranking=sample_ranking(),
        recipe=recipe,
        prompts=("one", "two"),
        result=GenerationResult(recipe, (generation,), 2.5, 0.125, 0.5),
    )
    return replace(session, **changes)


def sample_ranking() -> Ranking:
    """A ranking of one latent."""
    return Ranking(
        model="tiny",
        model_sha256="aa",
        sae="tiny/layer1",
        sae_sha256="bb",
        hook_point="blocks.1.hook_resid_post",
        d_sae=64,
        instruction="translate-to-french",
        read="response",
        selector="sensitivity",
        selector_parameters={},
        n_pairs=4,
        top=1,
        latents=(LatentScore(7, 0.9, 1.5, 0.25, 1.0, 0.0, 1.5, ("le", "la")),),
        n_selective=1,
        seconds=0.5,
        tokens_total=100,
        tokens_computed=60,
        cached=False,
    )
