"""Where in a model do languages part? Variance that they share, and that each has of its own.

    python -m experiments.crossing

The shipped contents and their translations into four languages are read; a sentence is the mean of
its tokens' residual streams. At every layer its variance is taken apart: between sentences, which
all languages share; between languages, which all sentences share; and the rest. The crossing rule
says that steering towards a language works best where the two cross.

Source: the crossing rule of arXiv 2605.23036, reconstructed; components of variance as in a two-way
analysis of variance with one value a cell.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from app.settings import be_courteous, load_settings
from saif_core.inputs.shipped import shipped_contents, shipped_references
from saif_core.models.default_model import DEFAULT_MODEL

LANGUAGES = ("fr", "de", "es", "zh")
WIDTH, HEIGHT, MARGIN = 640, 280, 44


class Components(NamedTuple):
    """Components of variance at one layer, in squared units of the residual stream."""

    shared: float
    language: float
    rest: float

    @property
    def language_share(self) -> float:
        """The language's part of the two that cross; the rule looks for one half."""
        both = self.shared + self.language
        return self.language / both if both > 0 else 0.0


def components(
    means: Float[np.ndarray, "sentences languages d_model"],
) -> Components:
    """Estimates of the components, none below 0."""
    n_sentences, n_languages, _ = means.shape
    grand = means.mean((0, 1))
    by_sentence, by_language = means.mean(1), means.mean(0)
    rest = means - by_sentence[:, None] - by_language[None] + grand
    ms_rest = float((rest**2).sum()) / ((n_sentences - 1) * (n_languages - 1))
    ms_sentence = n_languages * float(((by_sentence - grand) ** 2).sum()) / (n_sentences - 1)
    ms_language = n_sentences * float(((by_language - grand) ** 2).sum()) / (n_languages - 1)
    return Components(
        max((ms_sentence - ms_rest) / n_languages, 0.0),
        max((ms_language - ms_rest) / n_sentences, 0.0),
        ms_rest,
    )


def crossings(found: Sequence[Components]) -> list[int]:
    """Layers before which one of the two was the larger and at which the other one is."""
    above = [one.language_share > 0.5 for one in found]
    return [layer for layer in range(1, len(found)) if above[layer] != above[layer - 1]]


def figure(found: Sequence[Components]) -> str:
    """Shares of the three components by layer, as SVG that suits light and dark pages."""
    totals = [sum(one) or 1.0 for one in found]
    lines = {
        "between sentences (shared)": (
            [c.shared / t for c, t in zip(found, totals, strict=True)],
            "#2b7fc4",
            "",
        ),
        "between languages": (
            [c.language / t for c, t in zip(found, totals, strict=True)],
            "#d55e00",
            "6 3",
        ),
        "rest": ([c.rest / t for c, t in zip(found, totals, strict=True)], "#888", "2 3"),
    }
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def at(layer: int, share: float) -> str:
        x = MARGIN + wide * layer / max(len(found) - 1, 1)
        return f"{x:.1f},{HEIGHT - MARGIN - high * share:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#888">'
        "<title>Components of variance by layer</title>"
    ]
    for number, (name, (shares, colour, dash)) in enumerate(lines.items()):
        points = " ".join(at(layer, share) for layer, share in enumerate(shares))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/><text x="{MARGIN + 190 * number}" y="16" '
            f'fill="{colour}">{name}</text>'
        )
    for share in (0, 0.5, 1):
        x, y = at(0, share).split(",")
        parts.append(f'<text x="{float(x) - 34}" y="{float(y) + 4}">{share:.0%}</text>')
        parts.append(f'<line x1="{x}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}" stroke="#8884"/>')
    for layer in range(0, len(found), 5):
        x = at(layer, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 24}" text-anchor="middle">{layer}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">layer</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    """Print the table, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--sentences", type=int, default=240, help="contents to read")
    parser.add_argument("--figure", type=Path, default=Path("docs/results/crossing.svg"))
    options = parser.parse_args()
    be_courteous()  # before torch is loaded
    import torch

    from saif_core.catalog import Catalog
    from saif_core.models.activations import read_resid
    from saif_core.saes.loaded_sae import without_sinks

    settings = load_settings()
    catalog = Catalog(settings.home)
    model = catalog.load_model(options.model, device=settings.device, dtype=settings.dtype)
    contents = shipped_contents()[: options.sentences]
    texts = [contents, *([shipped_references(one)[c] for c in contents] for one in LANGUAGES)]
    layers, means = list(range(model.n_layers)), []
    for sentences in texts:
        ids = [model.encode_prompt(text, chat=False) for text in sentences]
        # The first token is an attention sink, larger than all others together.
        wanted = [list(range(1, len(one))) for one in ids]
        found, _ = read_resid(model, ids, layers, wanted)
        # Later ones are as large in some layers, and would be all the variance there is.
        kept = ([without_sinks(x.float()).mean(0) for x in found[n]] for n in layers)
        means.append([torch.stack(rows).numpy() for rows in kept])
    found = [components(np.stack([of_one[n] for of_one in means], axis=1)) for n in layers]
    lines = ["| layer | shared | language | rest | language / (language + shared) |"]
    lines += ["|---:|---:|---:|---:|---:|"]
    for layer, one in enumerate(found):
        total = sum(one) or 1.0
        shares = " | ".join(f"{part / total:.2f}" for part in one)
        lines.append(f"| {layer} | {shares} | {one.language_share:.2f} |")
    lines.append(f"\nCrossings at layers: {crossings(found) or 'none'}")
    sys.stdout.write("\n".join(lines) + "\n")
    options.figure.write_text(figure(found), encoding="utf-8")


if __name__ == "__main__":
    main()
