"""The headline experiment: its plan, its requests, and the page that its texts make."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from experiments import headline_report as report
from experiments.headline import Headline, read_plan
from experiments.headline_report import Results, holm
from saif_core.evaluating.plan import check_request
from saif_core.evaluating.rates import rates_of
from saif_core.inputs.shipped import learning_contents, shipped_contents, shipped_instructions
from saif_core.records.evaluation import Evaluation, EvaluationRequest, EvaluationText
from tests.test_evaluation_files import cell, sample_evaluation

PLAN, SHA256 = read_plan()


class Measured:
    """Answers requests with texts that are useful as often as the strength is high."""

    def __init__(self) -> None:
        self.requests: list[EvaluationRequest] = []

    def __call__(self, request: EvaluationRequest) -> tuple[Evaluation, list[EvaluationText]]:
        check_request(request)
        self.requests.append(request)
        from saif_core.evaluating.plan import plan_controls, plan_settings

        layer = int(request.sae_ids[0].rpartition("layer")[2])
        settings = plan_settings(request, [layer])
        settings += plan_controls(request, settings)
        texts = []
        for number, setting in enumerate(settings):
            n_useful = round(10 * (setting.strength or 0)) if not setting.of else 0
            texts += [
                EvaluationText(
                    number,
                    content,
                    "text",
                    "strict" if at < n_useful else "none",
                    "",
                    "success",
                    9.0,
                )
                for at, content in enumerate(request.test_contents)
            ]
        cells = tuple(
            cell(setting, rates_of([t for t in texts if t.cell == n]).strict)
            for n, setting in enumerate(settings)
        )
        return sample_evaluation(request=request, cells=cells, best=()), texts


@pytest.mark.parametrize("name", shipped_instructions())
def test_what_is_planned_can_be_measured(name: str) -> None:
    measured = Measured()
    experiment = Headline(PLAN, name, measured)
    arms = [*PLAN["arms"], *PLAN["wider"]["arms"]]
    for one in [*experiment.baselines(), *experiment.chosen(arms)]:
        experiment.report(one)
    tested = {content for r in measured.requests for content in r.test_contents}
    learned = {content for r in measured.requests for content in r.rank_contents}
    assert tested <= set(shipped_contents())
    assert learned <= set(learning_contents())
    by_use = [
        set(shipped_contents()[slice(*PLAN[use]["contents"])]) for use in ("choose", "report")
    ]
    assert not by_use[0] & by_use[1]
    assert tested == by_use[0] | by_use[1]


def test_the_setting_that_did_best_on_the_choosing_contents_is_reported() -> None:
    rows = list(Headline(PLAN, "as-a-question", Measured()).run("main"))
    by_arm = {row["arm"]: row["strength"] for row in rows}
    assert by_arm["SAIF"] == max(PLAN["arms"][0]["strengths"])
    assert by_arm["unsteered"] is None
    assert {"SAIF: random", "gated latents: cue-token"} <= set(by_arm)
    assert all(row["seed"] == 0 for row in rows)
    contents = shipped_contents()[slice(*PLAN["report"]["contents"])]
    assert [row["content"] for row in rows if row["arm"] == "SAIF"] == contents
    again = list(Headline(PLAN, "as-a-question", Measured()).run("repeat"))
    assert {row["arm"] for row in again} == set(PLAN["repeat"]["arms"])
    assert {row["seed"] for row in again} == set(PLAN["repeat"]["seeds"])
    assert not list(Headline(PLAN, "refuse", Measured()).run("wider"))


def test_holm_corrects_as_scipy_orders() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    # Never below Benjamini and Hochberg's, never above Bonferroni's.
    ps = [0.001, 0.2, 0.04, 0.008, 0.5]
    least = stats.false_discovery_control(ps)
    assert all(a <= b <= min(1, 5 * p) for a, b, p in zip(least, holm(ps), ps, strict=True))


def rows_of(arm: str, n_useful: int, **changes: Any) -> list[dict[str, Any]]:
    row: Mapping[str, Any] = {
        "instruction": "as-a-question",
        "arm": arm,
        "strength": 1.0,
        "wording": "",
        "seed": 0,
        "measure": "embedding",
        "text": "a | text",
        "outcome": "success",
        "about": True,
        "perplexity": 9.0,
        **changes,
    }
    return [
        {**row, "content": str(n), "grade": "strict" if n < n_useful else "none"} for n in range(20)
    ]


def test_tables_count_useful_texts() -> None:
    arms = {"unsteered": 0, "prompted": 9, "SAIF": 4, "mean difference": 5, "gated latents": 15}
    arms |= {"gated latents and prompted": 20, "SAIF: random": 0, "gated latents: random": 1}
    results = Results([row for arm, n in arms.items() for row in rows_of(arm, n)])
    table = report.headline(results)
    assert "| as-a-question | .00 | .45 | .20 | .25 | .75 | **1.00** |" in table
    assert results.constant("as-a-question") == "mean difference"
    assert results.latents("as-a-question") == "gated latents"
    assert results.p("as-a-question", "gated latents", "prompted") == pytest.approx(2 / 2**6)
    details = report.details(results)
    assert "| as-a-question | gated latents | 1 | .75 [" in details
    assert "a \\| text" in report.examples(results)
    left = report.missing(results)
    assert "answer-in-json, bullet-list, translate-to-french" in left
    assert "gates on random latents" in left
    assert left.endswith("; the same settings with other draws.")


@pytest.mark.skipif(not report.TEXTS.exists(), reason="no texts are kept yet")
def test_every_figure_of_the_page_comes_from_its_texts() -> None:
    rows = report.read_texts()
    assert report.PAGE.read_text(encoding="utf-8") == report.page(Results(rows))
    assert SHA256 in report.PAGE.read_text(encoding="utf-8")
    names = {row["instruction"] for row in rows}
    assert names <= set(PLAN["instructions"])
    assert ("the instructions" in report.missing(Results(rows))) == (len(names) < 12)


def test_texts_of_another_plan_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "headline"
    folder.mkdir()
    for name in (f"{SHA256[:12]}.a.main.jsonl", "0123456789ab.b.main.jsonl"):
        (folder / name).write_text(json.dumps({"file": name}) + "\n", encoding="utf-8")
    file = tmp_path / "texts.jsonl.gz"
    report.collect(tmp_path, file)
    (row,) = report.read_texts(file)
    assert row["file"].startswith(SHA256[:12])
