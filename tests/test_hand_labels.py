"""The evaluators and the rule for disorder against texts that a person graded."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

from saif_core.inputs.shipped import shipped_instructions
from saif_core.judging.fluency import is_disordered
from saif_core.records.prompts import PromptPair
from saif_core.registry import EVALUATORS

Row = Mapping[str, str]
LABELS = Path(__file__).parent.parent / "docs" / "results" / "hand_labels.csv"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with LABELS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grade(row: Row) -> str | None:
    instruction = shipped_instructions()[row["instruction"]]
    wording, content = instruction.wordings[0].text, row["content"]
    judge = EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)
    found: str | None = judge(
        PromptPair(f"{content} {wording}", content, content, wording), row["text"]
    ).grade
    return found


def falls_apart(row: Row) -> bool:
    return is_disordered(row["text"], float(row["perplexity"]) if row["perplexity"] else None)


def test_grades_agree_as_often_as_the_evaluators_page_says(rows: list[Row]) -> None:
    assert len(rows) == 100
    assert sum(grade(row) == row["grade"] for row in rows) == 85
    readable = [row for row in rows if row["disordered"] == "no" and not falls_apart(row)]
    assert len(readable) == 56
    assert sum(grade(row) == row["grade"] for row in readable) == 51


def test_disorder_is_found_as_often_as_the_evaluators_page_says(rows: list[Row]) -> None:
    broken = [row for row in rows if row["disordered"] == "yes"]
    whole = [row for row in rows if row["disordered"] == "no"]
    assert (len(broken), sum(map(falls_apart, broken))) == (40, 31)
    assert (len(whole), sum(map(falls_apart, whole))) == (60, 4)
