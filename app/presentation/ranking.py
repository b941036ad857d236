"""What a ranking would take, in words."""

from saif_core.records.ranking import WorkEstimate


def compute_words(estimate: WorkEstimate) -> str:
    """How many tokens have to be computed, and why it is fewer than all, where it is."""
    n, total = estimate.tokens_to_compute, estimate.tokens_total
    if n >= total:
        return f"{total:,} {'token' if total == 1 else 'tokens'} to compute"
    return (
        f"{n:,} of {total:,} tokens to compute; the others are shared between prompts or computed "
        "already"
    )
