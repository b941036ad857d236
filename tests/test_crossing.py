"""Components of variance by sentence and language, on planted numbers."""

import numpy as np
import pytest

from experiments.crossing import Components, components, crossings, figure

N, L, D = 400, 5, 8


def planted(shared: float, language: float, rest: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)

    def part(*shape: int) -> np.ndarray:
        found: np.ndarray = draw.standard_normal((*shape, D))
        return found

    of_language = part(1, L)
    of_language -= of_language.mean(1, keepdims=True)
    of_language *= (L - 1) ** 0.5 / np.linalg.norm(of_language) * D**0.5
    return shared**0.5 * part(N, 1) + language**0.5 * of_language + rest**0.5 * part(N, L) + 3.0


@pytest.mark.parametrize("sizes", [(1.0, 4.0, 0.5), (3.0, 0.5, 2.0), (0.2, 0.2, 1.0)])
def test_planted_components_are_found(sizes: tuple[float, float, float]) -> None:
    found = components(planted(*sizes))
    assert np.array(found) / D == pytest.approx(sizes, rel=0.15)
    shared, language, _ = sizes
    assert found.language_share == pytest.approx(language / (language + shared), abs=0.05)


def test_nothing_is_not_less_than_nothing() -> None:
    noise = components(planted(0.0, 0.0, 1.0))
    assert min(noise) >= 0
    assert noise.rest / D == pytest.approx(1.0, rel=0.1)
    assert components(np.zeros((3, 2, 4))).language_share == 0


def test_crossings_are_where_the_larger_one_changes() -> None:
    shares = (0.9, 0.6, 0.4, 0.2, 0.7)
    assert crossings([Components(1 - s, s, 1.0) for s in shares]) == [2, 4]
    assert crossings([Components(1.0, 0.0, 1.0)] * 3) == []


def test_the_figure_is_svg_of_every_layer() -> None:
    from xml.etree import ElementTree

    drawn = figure([Components(1.0, 2.0, 1.0)] * 7)
    root = ElementTree.fromstring(drawn)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [7, 7, 7]
