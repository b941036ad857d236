"""The tables of the findings: which setting the headline takes, and what it counts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.saif_report import Findings, headline, limits, loosely
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import BestCell, CellSetting
from saif_core.records.texts import Grade
from tests.test_evaluation_files import SAIF, cell, rates, sample_evaluation, sample_text

UNSTEERED, RANDOM = CellSetting("unsteered"), replace(SAIF, arm="random", of="saif")


def keep(
    folder: Path,
    title: str,
    *,
    chosen: float,
    reported: float,
    disorder: float,
    chosen_disorder: float = 0.1,
    grade: Grade = "loose",
    p: float = 1e-5,
) -> None:
    """An evaluation whose SAIF setting did so on the two halves; all its texts have one grade."""
    steered = replace(
        cell(SAIF, reported),
        choosing=rates(chosen, disorder=chosen_disorder),
        reporting=rates(reported, disorder=disorder),
    )
    cells = (cell(UNSTEERED, 0.01), cell(CellSetting("prompted"), 0.5), steered, cell(RANDOM, 0.01))
    best = BestCell("saif", 2, rates(reported, disorder=disorder), p, p)
    found = sample_evaluation(cells=cells, best=(best,), best_sae_arm="saif")
    grades: tuple[Grade, ...] = ("none", "none", grade, "none")
    texts = [
        sample_text(number, f"{n}", grade=given)
        for number, given in enumerate(grades)
        for n in range(40)
    ]
    data = {"evaluation": to_json(found), "texts": [to_json(text) for text in texts]}
    (folder / f"french.{title}.json").write_text(json.dumps(data))


def keep_prompting(folder: Path, *shares: float) -> None:
    for number, share in enumerate(shares):
        found = sample_evaluation(cells=(cell(CellSetting("prompted"), share),), best=())
        data = {"evaluation": to_json(found), "texts": []}
        (folder / f"french.prompting-{number}.json").write_text(json.dumps(data))


def table(folder: Path) -> str:
    return headline(Findings(folder, lambda _layer, _latents: []), ["french"])


def test_the_stage_is_chosen_by_the_choosing_half_alone(tmp_path: Path) -> None:
    keep(tmp_path, "main", chosen=0.8, reported=0.6, disorder=0.1)
    keep(tmp_path, "fading", chosen=0.7, reported=0.95, disorder=0.0)
    keep_prompting(tmp_path, 0.3, 0.9)
    row = table(tmp_path).splitlines()[2]
    assert "0.60 [" in row
    assert "0.60 / 0.90" in row
    assert "fading" not in row


@pytest.mark.parametrize(
    ("reported", "disorder", "p", "beats", "reaches"),
    [
        (0.6, 0.2, 1e-5, "1 of 1", "1 of 1"),
        (0.5, 0.2, 1e-5, "1 of 1", "0 of 1"),
        (0.6, 0.21, 1e-5, "1 of 1", "0 of 1"),
        (0.6, 0.2, 0.01, "0 of 1", "0 of 1"),
    ],
)
def test_what_beats_and_reaches_is_counted(
    tmp_path: Path, reported: float, disorder: float, p: float, beats: str, reaches: str
) -> None:
    keep(tmp_path, "main", chosen=0.8, reported=reported, disorder=disorder, p=p)
    keep_prompting(tmp_path, 0.3, 0.9)
    counts = table(tmp_path).splitlines()[-1]
    assert f"p < .01: **{beats}**" in counts
    assert f"disorder: **{reaches}**" in counts


def test_loose_grades_are_tested_text_by_text(tmp_path: Path) -> None:
    keep(tmp_path, "main", chosen=0.8, reported=0.1, disorder=0.1)
    found = loosely(Findings(tmp_path, lambda _layer, _latents: []), ["french"])
    assert "| < .0001 / < .0001 | yes |" in found
    assert found.endswith("**1 of 1**.")


def test_a_lower_limit_of_disorder_chooses_another_setting(tmp_path: Path) -> None:
    keep(tmp_path, "main", chosen=0.9, chosen_disorder=0.18, reported=0.9, disorder=0.3)
    keep(tmp_path, "fading", chosen=0.8, reported=0.7, disorder=0.1, grade="strict")
    keep_prompting(tmp_path, 0.3, 0.9)
    rows = limits(Findings(tmp_path, lambda _layer, _latents: []), ["french"]).splitlines()
    assert rows[3] == "| 0.15 | 0.70 | 0.10 | 1 of 1 | 1 of 1 |"
    assert rows[4] == "| 0.20 | 0.90 | 0.30 | 0 of 1 | 0 of 1 |"


def test_what_is_no_better_than_unsteered_reaches_nothing(tmp_path: Path) -> None:
    keep(tmp_path, "main", chosen=0.9, reported=0.9, disorder=0.1, grade="none")
    keep_prompting(tmp_path, 0.3, 0.9)
    rows = limits(Findings(tmp_path, lambda _layer, _latents: []), ["french"]).splitlines()
    assert rows[4] == "| 0.20 | 0.90 | 0.10 | 1 of 1 | 0 of 1 |"
