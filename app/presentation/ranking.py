"""What a ranking says and what it would take, in words."""

from app.presentation.figures import counted
from saif_core.records.ranking import LatentScore, Ranking, ReadPosition, WorkEstimate

# What a share is a share of, by where activations were read.
POSITION_WORDS: dict[ReadPosition, str] = {
    "response": "answer tokens",
    "last-token": "prompts, at their last token,",
}


def compute_words(estimate: WorkEstimate) -> str:
    """How many tokens have to be computed, and why it is fewer than all, where it is."""
    n, total = estimate.tokens_to_compute, estimate.tokens_total
    if n >= total:
        return f"{total:,} {'token' if total == 1 else 'tokens'} to compute"
    return (
        f"{n:,} of {total:,} tokens to compute; the others are shared between prompts or computed "
        "already"
    )


def verdict(ranking: Ranking) -> str:
    """How often the best latents fire with and without the instruction, as plain text."""
    best = ranking.latents[:2]
    if not best:
        return "The ranking lists no latent."
    where = POSITION_WORDS[ranking.read]
    told = f"with {ranking.instruction}"
    n_pairs = counted(ranking.n_pairs, "prompt pair")
    who, fire = _who(best)
    shares = _both([share(one.rate_positive) for one in best])
    others = _both([share(one.rate_negative) for one in best])
    said = f"{who} {fire} on {shares} of {where} {told}, and on {others} without ({n_pairs})."
    if best[0].rate_positive <= best[0].rate_negative:
        return f"No latent stands out. {said} Try more pairs, another layer or another selector."
    if not ranking.n_selective:
        return said
    these = "latent fires" if ranking.n_selective == 1 else "latents fire"
    return (
        f"{said} Of all {ranking.d_sae:,}, {ranking.n_selective:,} {these} on at least 80% with "
        "it and on at most 5% without."
    )


def share(part: float) -> str:
    """A share in whole per cent that calls nothing none that is some."""
    if 0 < part < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < part < 1 else f"{part:.0%}"


def _who(best: tuple[LatentScore, ...]) -> tuple[str, str]:
    if len(best) == 1:
        return f"The best latent, {best[0].index},", "fires"
    return f"The two best, latents {best[0].index} and {best[1].index},", "fire"


def _both(words: list[str]) -> str:
    return words[0] if len(set(words)) == 1 else " and ".join(words)
