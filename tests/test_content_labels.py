"""Whether texts are about their content, by sentence embeddings and by a person."""

import csv
from pathlib import Path

import pytest

from saif_core.inputs.shipped import shipped_contents
from saif_core.judging.content_measures import by_embedding, judge_contents
from saif_core.models.text_embeddings import TextEmbedder, is_installed

LABELS = Path(__file__).parent.parent / "docs" / "results" / "content_labels.csv"


@pytest.mark.skipif(not is_installed(), reason="the wheel is optional")
def test_the_measure_agrees_with_the_reader_as_often_as_the_page_says() -> None:
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts, contents = [row["text"] for row in rows], [row["content"] for row in rows]
    assert set(contents) <= set(shipped_contents())
    verdicts = judge_contents(by_embedding(TextEmbedder()), texts, contents, shipped_contents())
    found = [verdict.is_about for verdict in verdicts]
    said = [row["about"] == "yes" for row in rows]
    assert (len(rows), sum(said), sum(found)) == (100, 76, 82)
    assert sum(one == other for one, other in zip(found, said, strict=True)) == 90
