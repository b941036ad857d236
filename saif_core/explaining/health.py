"""How good an SAE is: measured again on shipped texts, judged, and how often its latents fire.

The texts are short sentences in several languages, and chats whose answers the model writes
itself. None of them was trained on.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

import saif_core
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import read_responses
from saif_core.records.health import LEAST_DEAD_TOKENS, DensityReport, Finding, TextMeasurement
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.saes import SaeCard
from saif_core.saes.card import measure_sae
from saif_core.saes.loaded_sae import LoadedSae

HEALTH_TEXTS = Path(saif_core.__file__).parent / "defaults" / "health_texts"
CHAT = "chat"
ANSWER_TOKENS = 32
# Times that a token takes to write, and to be measured on, against one that is measured on.
WRITING_COST = 2
LEAST_CE_RECOVERED = 0.9
MOST_FVU = 0.3
MOST_DEAD = 0.1
DENSE = 0.1
BINS_PER_DECADE = 4


def shipped_texts() -> dict[str, tuple[str, ...]]:
    """{kind: texts}, one text a line; those of "chat" are prompts."""
    return {
        path.stem: tuple(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(HEALTH_TEXTS.glob("*.txt"))
    }


def measure_health(
    model: LoadedModel,
    sae: LoadedSae,
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> tuple[TextMeasurement, ...]:
    """Measure an SAE on the shipped texts; chats only where the model has a chat template."""
    measurements = []
    texts = shipped_texts()
    if not model.has_chat_template:
        del texts[CHAT]
    encoded = {
        kind: [model.encode_prompt(line, chat=kind == CHAT) for line in lines]
        for kind, lines in texts.items()
    }
    # Writing answers counts as what it takes: beside it, reading a kind of text is short.
    sizes = {kind: sum(map(len, sequences)) for kind, sequences in encoded.items()}
    writing = WRITING_COST * ANSWER_TOKENS * len(encoded.get(CHAT, ()))
    total = sum(sizes.values()) + writing
    done = 0
    for kind, sequences in encoded.items():
        if kind == CHAT:
            on_answer = partial(_scaled, step, done, writing, total) if step else None
            answers, _ = read_responses(model, sequences, ANSWER_TOKENS, cache, on_answer)
            sequences = [[*s, *answer] for s, answer in zip(sequences, answers, strict=True)]
            done += writing
        if step:
            step(done, total, f"measuring on {kind}")
        done += sizes[kind]
        (card,) = measure_sae(model, sae, {kind: sequences}).cards
        n_after_first = sum(len(sequence) - 1 for sequence in sequences)
        measurements.append(TextMeasurement(card, 1.0 - card.n_tokens / n_after_first))
    return tuple(measurements)


def _scaled(
    step: Step, before: int, size: int, total: int, done: int, of: int, message: str
) -> None:
    """Progress of a part as progress of the whole."""
    step(before + size * done // max(of, 1), total, message)


def judge_health(cards: Sequence[SaeCard], dead_fraction: float | None) -> tuple[Finding, ...]:
    """The three measures against their thresholds, each on the text where it is worst."""
    if cards:
        least = min(cards, key=lambda card: card.ce_recovered)
        most = max(cards, key=lambda card: card.fvu)
        recovered = Finding(
            least.ce_recovered >= LEAST_CE_RECOVERED,
            f"CE recovered is {least.ce_recovered:.1%} on {least.text}, its worst text (n = "
            f"{least.n_tokens:,} tokens); good is at least {LEAST_CE_RECOVERED:.0%}.",
        )
        unexplained = Finding(
            most.fvu <= MOST_FVU,
            f"FVU is {most.fvu:.3f} on {most.text}, its worst text (n = {most.n_tokens:,} "
            f"tokens); good is at most {MOST_FVU}.",
        )
    else:
        recovered = Finding(None, "CE recovered was not measured; measure it here.")
        unexplained = Finding(None, "FVU was not measured; measure it here.")
    if dead_fraction is None:
        dead = Finding(
            None,
            "The share of dead latents is not known; index a corpus of at least "
            f"{LEAST_DEAD_TOKENS:,} tokens to count them.",
        )
    else:
        dead = Finding(
            dead_fraction <= MOST_DEAD,
            f"{dead_fraction:.1%} of the latents are dead; good is at most {MOST_DEAD:.0%}.",
        )
    return recovered, unexplained, dead


def summarize_density(n_fired: Int[np.ndarray, " d_sae"], n_tokens: int) -> DensityReport:
    """How often latents fire.

    Args:
        n_fired: tokens on which each latent fires.
        n_tokens: tokens of the corpus.
    """
    density = n_fired[n_fired > 0] / max(n_tokens, 1)
    logs = np.log10(density)
    lowest = int(np.floor(logs.min(initial=-1.0)))
    edges = np.linspace(lowest, 0, -lowest * BINS_PER_DECADE + 1)
    counts, _ = np.histogram(logs, bins=edges)
    return DensityReport(
        n_tokens=n_tokens,
        d_sae=len(n_fired),
        n_dead=len(n_fired) - len(density),
        n_dense=int((density > DENSE).sum()),
        bins=tuple(
            (low, high, int(n))
            for (low, high), n in zip(pairwise(edges.tolist()), counts, strict=True)
        ),
    )
