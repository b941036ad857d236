"""Rankings, latents and generations as the command line shows them."""

from typing import Any

from app.cli.output import shown_tokens, table
from saif_core.records.as_json import to_json
from saif_core.records.ranking import LatentDetail, Ranking
from saif_core.records.texts import GenerationResult


def ranking_text(ranking: Ranking) -> str:
    """A ranking as a table of its best latents."""
    rows = [
        (
            score.index,
            score.score,
            score.rate_positive,
            score.rate_negative,
            score.mean,
            score.std,
            shown_tokens(score.top_tokens[:6]),
        )
        for score in ranking.latents[: ranking.top]
    ]
    headers = ("latent", "score", "with", "without", "mean", "std", "promotes")
    origin = "all cached" if ranking.cached else f"{ranking.tokens_computed} tokens computed"
    return (
        f"{ranking.instruction}: {ranking.n_pairs} pairs, {ranking.selector}, {ranking.read}\n"
        f"{ranking.model}, {ranking.sae} at {ranking.hook_point}\n\n"
        f"{table(headers, rows)}\n\n"
        f"{ranking.n_selective} latents fire on at least 80% of positions with the instruction and "
        f"at most 5% without; {ranking.seconds:.1f} s, {origin}"
    )


def latent_text(detail: LatentDetail) -> str:
    """What a latent's weights say, as two tables."""
    tokens = [
        (shown_tokens([up]), up_logit, shown_tokens([down]), down_logit)
        for (up, up_logit), (down, down_logit) in zip(
            detail.promoted, detail.suppressed, strict=False
        )
    ]
    return (
        f"latent {detail.index} of {detail.sae} at {detail.hook_point}, decoder norm "
        f"{detail.decoder_norm:.3f}, encoder bias {detail.encoder_bias:.3f}\n\n"
        f"{table(('promotes', 'logit', 'suppresses', 'logit'), tokens)}\n\n"
        f"{table(('neighbour', 'cosine'), detail.neighbours)}"
    )


def generation_data(result: GenerationResult) -> dict[str, Any]:
    """A generation as JSON-ready data: the recipe, and every text as an arm."""
    data = to_json(result)
    arms = [{"name": text.pop("arm"), **text} for text in data.pop("generations")]
    return {**data, "arms": arms}


def generation_text(result: GenerationResult) -> str:
    """The texts of a generation, arm under arm."""
    recipe = result.recipe
    lines = [
        f"{len(recipe.latents)} latents, {recipe.sae} at {recipe.hook_point}, strength "
        f"{recipe.strength:g}: adds {result.vector_norm:.3g}, {result.resid_share:.0%} of the "
        f"residual norm; {result.seconds:.1f} s"
    ]
    for text in result.generations:
        if text.arm == "unsteered":
            lines.append(f"\nprompt:    {text.prompt}")
        lines.append(f"{text.arm + ':':<10} {text.text.strip()}")
    return "\n".join(lines)
