"""Records with something in every field, for the tests of the store."""

from dataclasses import replace
from typing import Any

from saif_core.records.evaluation import (
    BestCell,
    Candidate,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
    MadeEdits,
    Rates,
)
from saif_core.records.prompts import Instruction, Turn, Wording
from saif_core.records.ranking import ChosenLatent, LatentScore, Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Origin,
    Sampling,
    Schedule,
    SteeringRecipe,
)
from saif_core.records.texts import ArmSize, Generation, GenerationResult, TokenDivergence

# Quotes, wildcards, escapes, emoji, right-to-left text, NUL and half a surrogate pair.
ODD_TEXT = "'; DROP TABLE sessions; -- \" %_\\ 中文 שלום 🇫🇷 e\u0301 \x00 \ud83d"
# What JSON keeps of it: all but the half.
KEPT_TEXT = ODD_TEXT.replace("\ud83d", "\ufffd")

INSTRUCTION = Instruction(
    "translate-to-french",
    "Answers in French",
    "language",
    {"language": "fr"},
    (Wording("Translate the sentence to French."), Wording("Traduis la phrase.", "fr")),
)
LATENTS = Edit(
    layer=1,
    method_parameters={"sign": -1, "nested": {"a": [1, 2]}},
    sae_id="tiny/layer1",
    latents=(ChosenLatent(7, 1.5),),
    share=0.5,
    keep_norm=True,
)


def sample_recipe(
    prompts: tuple[str, ...] = ("one", "two"), *, tensors: str = ""
) -> SteeringRecipe:
    """A recipe of latents; with a hash of tensors, of these beside them."""
    edits = (LATENTS, Edit(layer=0, tensors=tensors)) if tensors else (LATENTS,)
    steered = Arm(
        "steered",
        edits=edits,
        strength=0.75,
        schedule=Schedule("first", 3, decay=0.5, decay_power=2.0),
        origin=Origin("saif", {"top": 1}, "cc", "dd"),
    )
    request = GenerationRequest(
        prompts=prompts,
        arms=(UNSTEERED, steered),
        sampling=Sampling(system="Be kind.", top_p=0.5, stop=("\n",), seed=3),
        histories=((), (Turn("user", "Hello"), Turn("assistant", "Bonjour"))),
        instruction=INSTRUCTION.name,
        divergence=True,
    )
    return SteeringRecipe(
        request=request,
        model="tiny",
        model_sha256="aa",
        sae_sha256s={"tiny/layer1": "bb"},
        plugin_sha256s={"addition": "ee"},
        chat_template_sha256="ff",
        dtype="float32",
        versions={"torch": "2"},
    )


def sample_session(name: str = "French", **changes: Any) -> SteeringSession:
    """A complete session; ``changes`` replace fields of it."""
    recipe = sample_recipe()
    changed = TokenDivergence("un", -1.5, 0.5, 0.25, 0.75)
    generation = Generation(
        0, "one", "steered", "un", (1, 2), "stop", perplexity=3.25, changes=(changed,)
    )
    session = SteeringSession(
        name=name,
        notes="α = µ + βσ",
        instruction=INSTRUCTION,
        ranking=sample_ranking(),
        recipe=recipe,
        result=GenerationResult(recipe, (generation,), 0.5, (None, ArmSize(2.5, 0.125))),
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


def sample_rates(strict: float) -> Rates:
    """Figures of 50 texts."""
    return Rates(
        n=50,
        strict=strict,
        strict_ci=(0.0, 1.0),
        loose=strict,
        loose_ci=(0.0, 1.0),
        unjudged=1,
        success=strict,
        retained=1 - strict,
        disorder=0.0,
        disorder_ci=(0.0, 0.1),
        perplexity=None,
        distinct_2=0.75,
        useful=strict / 2,
        useful_ci=(0.0, 0.9),
    )


def sample_evaluation(name: str = "translate-to-french", **changes: Any) -> Evaluation:
    """An evaluation of one candidate, its control and a baseline; ``changes`` replace fields."""
    saif = CellSetting("saif", "", (1,), {"top": 1, "beta": 0.5}, 0.8)
    settings = CellSetting("unsteered"), saif, replace(saif, arm="random", of="saif")
    rates = [sample_rates(strict) for strict in (0.02, 0.46, 0.04)]
    request = EvaluationRequest(
        instruction=replace(INSTRUCTION, name=name),
        sae_ids=("tiny/layer1",),
        rank_contents=("rank me",),
        rank_wordings=("In French.",),
        test_contents=tuple(f"content {number}" for number in range(100)),
        test_wordings=("En français.",),
        candidates=(Candidate("saif", {"top": (1,), "beta": (0.5,)}),),
        selector_parameters={"compare": "higher"},
    )
    made = Evaluation(
        request=request,
        model="tiny",
        model_sha256="aa",
        sae_sha256s=("bb",),
        dtype="float32",
        cells=tuple(
            Cell(
                setting,
                rate,
                rate,
                rate,
                resid_share=0.3,
                p_unsteered=0.5,
                p_random=0.25,
                p_prompted=0.125,
            )
            for setting, rate in zip(settings, rates, strict=True)
        ),
        best=(BestCell("saif", 1, rates[1], 1e-5, 2e-4, 3e-3),),
        best_sae_arm="saif",
        seconds=12.0,
        made=(
            MadeEdits("saif", (1,), saif.parameters, (LATENTS,), Origin("saif", saif.parameters)),
        ),
        plugin_sha256s={"saif": "cc"},
        versions={"torch": "2.0"},
        content_measure="chrf",
    )
    return replace(made, **changes)


def as_before(evaluation: Evaluation) -> Evaluation:
    """The evaluation as it was kept before texts were checked for their content."""

    def rates_before(rates: Rates) -> Rates:
        return replace(rates, useful=None, useful_ci=None)

    cells = tuple(
        replace(
            cell,
            rates=rates_before(cell.rates),
            choosing=rates_before(cell.choosing),
            reporting=rates_before(cell.reporting),
            p_prompted=None,
        )
        for cell in evaluation.cells
    )
    best = tuple(
        replace(one, rates=rates_before(one.rates), p_prompted=None) for one in evaluation.best
    )
    return replace(evaluation, cells=cells, best=best, content_measure="", content_reason="")


def sample_text(number: int, text: str, **changes: Any) -> EvaluationText:
    """A text of a cell."""
    made = EvaluationText(
        number, "a content", text, "strict", "It is French.", "success", 3.5, about=True
    )
    return replace(made, **changes)
