"""The rule that chooses a strength by the first tokens: what is planted is found."""

import numpy as np
import pytest
from scipy.special import expit

from experiments.first_tokens import Start, compare, fit

GENERATOR = np.random.default_rng(0)


def test_the_regression_finds_planted_weights() -> None:
    weights = np.array([2.0, -1.0, 0.0, 0.5])
    features = GENERATOR.normal(size=(20_000, 3))
    useful = GENERATOR.random(20_000) < expit(features @ weights[:-1] + weights[-1])
    assert fit(features, useful) == pytest.approx(weights, abs=0.1)


def starts(*, told: bool) -> list[Start]:
    """Texts of three instructions; one strength of each content is useful, told by its KL."""
    found = []
    for name in ("a", "b", "c"):
        for content in range(40):
            right = GENERATOR.integers(3)
            for at, strength in enumerate((1.0, 1.5, 2.0)):
                kl = float(at == right) if told else float(GENERATOR.random())
                noise = float(GENERATOR.random())
                features = (noise, 0.5, kl, 0.0)
                found.append(Start(name, str(content), strength, features, bool(at == right)))
    return found


def test_what_the_first_tokens_tell_is_used() -> None:
    for one in compare(starts(told=True)):
        assert one.useful["by first tokens"] == one.useful["always right"] == 1.0
        assert one.useful["of the same mean"] < 0.6
        assert one.p < 0.01


def test_what_tells_nothing_helps_nothing() -> None:
    for one in compare(starts(told=False)):
        assert one.useful["by first tokens"] < 0.6
        assert one.useful["always right"] == 1.0
        assert one.p > 0.01
