"""Source ``denoised``: the mean difference of the latent activations."""

from saif_core.records.ranking import ChosenLatent, Ranking


def denoised_latents(ranking: Ranking, k: int) -> tuple[ChosenLatent, ...]:
    """The mean difference of the latent activations, kept to its k largest entries.

    Source: SDCV (arXiv 2505.15038), whose SAE removes noise from a mean difference;
    reconstructed. Latents beyond those that the ranking lists are not seen.
    """
    largest = sorted(ranking.latents, key=lambda latent: -abs(latent.mean_difference))[:k]
    return tuple(
        ChosenLatent(latent.index, latent.mean_difference)
        for latent in largest
        if latent.mean_difference
    )
