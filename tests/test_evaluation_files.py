"""Evaluations as CSV, JSON, HTML and a sentence, read back by other code than wrote them."""

import csv
import io
import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from app.presentation import evaluation as presentation
from app.presentation.evaluation import content_sentence, content_words
from app.presentation.evaluation_files import (
    evaluation_csv,
    evaluation_data,
    evaluation_json,
    evaluation_sentence,
    evaluation_stem,
    texts_csv,
)
from saif_core.judging.content import N_OTHERS
from saif_core.judging.content_measures import Measure
from saif_core.records.evaluation import (
    BestCell,
    Candidate,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
    MadeEdits,
    Rates,
)
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit, Sampling
from tests.storage_samples import as_before

XSS = "<script>alert('1')</script>\"><img src=x onerror='alert(2)'></td></table>"
RATE_COLUMNS = (
    *("n", "useful", "useful_low", "useful_high"),
    *("strict", "strict_low", "strict_high", "loose", "loose_low", "loose_high", "unjudged"),
    *("success", "retained", "disorder", "perplexity", "distinct_2"),
)


def rates(strict: float, **changes: Any) -> Rates:
    """Figures of 50 texts, of which a few strict ones are not useful; ``changes`` replace some."""
    useful = max(0.0, strict - 0.08)
    made = Rates(
        n=50,
        strict=strict,
        strict_ci=(max(0.0, strict - 0.1), min(1.0, strict + 0.1)),
        loose=min(1.0, strict + 0.04),
        loose_ci=(strict, 1.0),
        unjudged=0,
        success=strict,
        retained=0.98 - strict if strict < 0.98 else 0.0,
        disorder=0.02,
        disorder_ci=(0.0, 0.1),
        perplexity=12.5,
        distinct_2=0.75,
        useful=useful,
        useful_ci=(max(0.0, useful - 0.1), min(1.0, useful + 0.1)),
    )
    return replace(made, **changes)


def cell(setting: CellSetting, strict: float, **changes: Any) -> Cell:
    """A cell whose halves are told apart by their strict share."""
    made = Cell(setting, rates(strict), rates(strict + 0.01), rates(strict - 0.01))
    return replace(made, **changes)


SAIF = CellSetting("saif", "", (14,), {"top": 15, "beta": 0.0}, 0.8)
CELLS = (
    cell(CellSetting("unsteered"), 0.02),
    cell(CellSetting("prompted"), 0.94, p_unsteered=1e-9),
    cell(replace(SAIF, strength=0.4), 0.2, p_unsteered=0.25, p_random=0.031),
    cell(SAIF, 0.46, resid_share=0.3, p_unsteered=1e-5, p_random=2e-4, p_prompted=3e-3),
    cell(CellSetting("mean_difference", "", (12, 14), {}, 1.0), 0.6),
    cell(replace(SAIF, arm="random", of="saif"), 0.03),
)
LATENTS = (ChosenLatent(7, 1.5), ChosenLatent(9, 0.25))
BEST = (
    BestCell("prompted", 1, rates(0.92), 1e-8),
    BestCell("saif", 3, rates(0.46), 1e-5, 2e-4, 3e-3),
    BestCell("mean_difference", 4, rates(0.6), 1e-4),
)


def sample_evaluation(name: str = "translate-to-french", **changes: Any) -> Evaluation:
    """An evaluation with something in every field; ``changes`` replace fields of it."""
    request = EvaluationRequest(
        instruction=Instruction(
            name, "French.", "language", {"language": "fr"}, (Wording("In French."),)
        ),
        sae_ids=("tiny/12", "tiny/14"),
        rank_contents=("rank me",),
        rank_wordings=("In French.",),
        test_contents=tuple(f"content {number}" for number in range(100)),
        test_wordings=("En français.",),
        candidates=(Candidate("saif", {"top": (15,)}), Candidate("mean_difference")),
        selector_parameters={"compare": "higher"},
        sampling=Sampling(seed=7),
    )
    made = Evaluation(
        request=request,
        model="tiny",
        model_sha256="aa" * 32,
        sae_sha256s=("bb" * 32, "cc" * 32),
        dtype="float32",
        cells=CELLS,
        best=BEST,
        best_sae_arm="saif",
        made=(
            MadeEdits(
                "saif", (14,), SAIF.parameters, (Edit(14, sae_id="tiny/14", latents=LATENTS),)
            ),
            MadeEdits(
                "mean_difference",
                (12, 14),
                {},
                tuple(Edit(layer, tensors="cd" * 32, share=0.5) for layer in (12, 14)),
            ),
        ),
        seconds=12.0,
        versions={"torch": "2.0"},
        content_measure="chrf",
    )
    return replace(made, **changes)


def sample_text(number: int, text: str, **changes: Any) -> EvaluationText:
    """A text of a cell."""
    made = EvaluationText(
        number, "a content", text, "strict", "It is French.", "success", 3.5, about=True
    )
    return replace(made, **changes)


def csv_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(evaluation_csv(evaluation).decode(), newline="")))


def test_a_row_of_the_csv_has_the_figures_of_its_cell_and_of_both_halves() -> None:
    rows = csv_rows(sample_evaluation())
    assert list(rows[0]) == [
        *("arm", "of", "layers", "top", "strength", *RATE_COLUMNS),
        *("p_unsteered", "p_random", "p_prompted"),
        *(f"{half}_{name}" for half in ("choosing", "reporting") for name in RATE_COLUMNS),
    ]
    assert [row["arm"] for row in rows] == [made.setting.arm for made in CELLS]
    saif = rows[3]
    assert (saif["layers"], saif["top"], saif["strength"]) == ("14", "15", "0.8")
    assert float(saif["strict"]) == 0.46
    assert float(saif["strict_low"]) == pytest.approx(0.36)
    assert float(saif["useful"]) == pytest.approx(0.38)
    assert float(saif["useful_high"]) == pytest.approx(0.48)
    assert float(saif["reporting_useful"]) == pytest.approx(0.37)
    assert float(saif["p_prompted"]) == 3e-3
    assert float(saif["choosing_strict"]) == pytest.approx(0.47)
    assert float(saif["reporting_strict"]) == pytest.approx(0.45)
    assert float(saif["p_random"]) == 2e-4
    assert (rows[0]["top"], rows[0]["strength"], rows[0]["p_random"]) == ("", "", "")
    assert rows[4]["layers"] == "12 14"
    assert rows[5]["of"] == "saif"


def test_the_csv_has_each_parameter_that_was_asked_for_by_its_name() -> None:
    grid: dict[str, tuple[Any, ...]] = {"latents": ("=7:1.5", "9:2"), "strict": (1, 2)}
    request = replace(sample_evaluation().request, candidates=(Candidate("basket", grid),))
    cells = tuple(
        cell(CellSetting("basket", "", (14,), {"latents": text, "strict": n, "other": 5}, 1.0), 0.4)
        for text, n in zip(*grid.values(), strict=True)
    )
    rows = csv_rows(sample_evaluation(cells=cells, request=request, best=()))
    assert [row["latents"] for row in rows] == ["'=7:1.5", "9:2"]
    assert [row["parameter_strict"] for row in rows] == ["1", "2"]
    assert {row["strict"] for row in rows} == {"0.4"}
    assert "other" not in rows[0]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_the_csv_runs_in_a_spreadsheet_and_numbers_stay_numbers(start: str) -> None:
    arm = f"{start}HYPERLINK(1)"
    cells = (cell(replace(SAIF, arm=arm, strength=-0.5), 0.4),)
    (row,) = csv_rows(sample_evaluation(cells=cells))
    assert row["arm"] == f"'{arm}"
    assert row["strength"] == "-0.5"


def test_the_data_names_each_cell_and_the_best_of_each_arm() -> None:
    evaluation = sample_evaluation()
    data = evaluation_data(evaluation)
    assert data["cells"][3] == {
        "arm": "saif",
        "of": "",
        "strength": 0.8,
        "layer": 14,
        "parameters": {"top": 15, "beta": 0.0},
        "n": 50,
        "useful": pytest.approx(0.38),
        "useful_ci": [pytest.approx(0.28), pytest.approx(0.48)],
        "strict": 0.46,
        "strict_ci": [pytest.approx(0.36), pytest.approx(0.56)],
        "loose": pytest.approx(0.5),
        "loose_ci": [0.46, 1.0],
        "unjudged": 0,
        "success": 0.46,
        "retained": pytest.approx(0.52),
        "disorder": 0.02,
        "disorder_ci": [0.0, 0.1],
        "perplexity": 12.5,
        "distinct_2": 0.75,
        "p_unsteered": 1e-5,
        "p_random": 2e-4,
        "p_prompted": 3e-3,
    }
    assert [found["layer"] for found in data["cells"]] == [None, None, 14, 14, [12, 14], 14]
    assert data["best"]["mean_difference"] == {
        "cell": 4,
        "strength": 1.0,
        "layer": [12, 14],
        "parameters": {},
        "qualifies": True,
        "n": 50,
        "useful": pytest.approx(0.52),
        "useful_ci": [pytest.approx(0.42), pytest.approx(0.62)],
        "strict": 0.6,
        "strict_ci": [0.5, 0.7],
        "loose": pytest.approx(0.64),
        "loose_ci": [0.6, 1.0],
        "disorder": 0.02,
        "disorder_ci": [0.0, 0.1],
        "p_unsteered": 1e-4,
        "p_random": None,
        "p_prompted": None,
    }
    assert (data["primary"], data["content_measure"]) == ("useful", "chrf")
    assert data["content_reason"] == ""
    assert (data["best_sae_arm"], data["instruction"]) == ("saif", "translate-to-french")
    assert (data["model"], data["seconds"], data["id"]) == ("tiny", 12.0, evaluation.id)
    assert json.loads(evaluation_json(evaluation)) == data


def test_the_files_of_an_evaluation_of_before_leave_useful_open_and_name_strict() -> None:
    before = as_before(sample_evaluation())
    data = json.loads(evaluation_json(before))
    assert (data["primary"], data["content_measure"], data["content_reason"]) == ("strict", "", "")
    for found in (*data["cells"], *data["best"].values()):
        assert (found["useful"], found["useful_ci"], found["p_prompted"]) == (None, None, None)
    assert data["cells"][3]["strict"] == 0.46
    rows = csv_rows(before)
    assert {(row["useful"], row["useful_low"], row["p_prompted"]) for row in rows} == {("",) * 3}
    assert list(rows[0]) == list(csv_rows(sample_evaluation())[0])


@pytest.mark.parametrize(
    ("n", "chosen_on", "reported_on"),
    [
        (100, "contents 1, 3, 5, … (50)", "contents 2, 4, 6, … (50)"),
        (7, "contents 1, 3, 5, … (4)", "contents 2, 4, 6 (3)"),
        (2, "contents 1 (1)", "contents 2 (1)"),
    ],
)
def test_the_data_names_both_halves(n: int, chosen_on: str, reported_on: str) -> None:
    evaluation = sample_evaluation()
    request = replace(evaluation.request, test_contents=evaluation.request.test_contents[:n])
    data = evaluation_data(replace(evaluation, request=request))
    assert (data["chosen_on"], data["reported_on"]) == (chosen_on, reported_on)


def with_best(setting: CellSetting = SAIF, **changes: Any) -> Evaluation:
    """The sample whose only steered arm does as ``changes`` say."""
    p_unsteered, p_random = (changes.pop(name, 1e-5) for name in ("p_unsteered", "p_random"))
    cells = (*CELLS[:3], replace(CELLS[3], setting=setting), *CELLS[4:])
    best = BestCell(setting.arm, 3, rates(0.46, **changes), p_unsteered, p_random)
    return sample_evaluation(cells=cells, best=(best,), best_sae_arm=setting.arm)


def test_the_sentence_says_what_steering_random_latents_nothing_and_prompting_do() -> None:
    assert evaluation_sentence(sample_evaluation()) == (
        "Steered with saif at strength 0.8 (layer 14, top 15), 38% [28–48] of 50 outputs are "
        "useful (strict 46%, loose 50%, disorder 2%); random latents 0% [0–10]; unsteered 0% "
        "[0–10]; prompting 85% [75–95]."
    )


def test_the_sentence_of_an_evaluation_of_before_is_of_strict_texts() -> None:
    assert evaluation_sentence(as_before(sample_evaluation())) == (
        "Steered with saif at strength 0.8 (layer 14, top 15), 46% [36–56] of 50 "
        "outputs follow the instruction strictly; random latents 2% [0–12]; unsteered 1% [0–11]; "
        "prompting 93% [83–100]."
    )


@pytest.mark.parametrize(
    ("measure", "how"),
    [
        (
            "chrf",
            "closer to the reference translation of its own content than to those of 19 others "
            "(chrF).",
        ),
        (
            "log_prob",
            "the unsteered model finds the text likelier after its own content than after 19 "
            "others.",
        ),
        (
            "embedding",
            "its sentence embedding is closer to its own content than to 19 others.",
        ),
    ],
)
def test_a_sentence_says_how_content_was_measured(measure: str, how: str) -> None:
    assert content_sentence(sample_evaluation(content_measure=measure)) == (
        "Useful texts follow strictly, are whole, and are about their content. A text is about its "
        f"content: {how}"
    )


def test_every_measure_has_its_words() -> None:
    told = {content_sentence(sample_evaluation(content_measure=m)) for m in get_args(Measure)}
    assert len(told) == len(get_args(Measure))
    assert not any(measure in sentence for measure in ("log_prob", "chrf") for sentence in told)
    assert presentation.N_OTHERS == N_OTHERS


def test_where_nothing_tells_the_reason_is_said_and_what_useful_means() -> None:
    silent = sample_evaluation(content_measure="", content_reason="A refusal need not be about it.")
    assert content_sentence(silent) == (
        "A refusal need not be about it. So useful means strict and whole here."
    )
    before = content_sentence(as_before(sample_evaluation()))
    assert "before texts were checked for their content, so its main figure is strict" in before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"about": True}, "about its content"),
        ({"about": False}, "not about its content, so it does not count as useful"),
        ({"about": None}, "content not measured"),
        ({"about": None, "grade": "loose"}, "content not looked at"),
        ({"about": None, "outcome": "disorder"}, "content not looked at"),
    ],
)
def test_a_text_says_whether_it_is_about_its_content(changes: dict[str, Any], words: str) -> None:
    assert content_words(sample_text(0, "a", **changes)) == words


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"p_unsteered": 0.0099, "p_random": 0.0099}, None),
        (
            {"p_random": 0.01},
            "This is not more than could be by chance against random latents (p = 0.01).",
        ),
        (
            {"p_unsteered": 0.5, "p_random": 1.0},
            "This is not more than could be by chance against unsteered (p = 0.50) or random "
            "latents (p = 1.00).",
        ),
        ({"p_unsteered": None, "p_random": None}, None),
        ({"disorder": 0.2}, None),
        ({"disorder": 0.34}, "34% of its outputs are broken text."),
    ],
)
def test_the_sentence_goes_on_where_it_may_be_chance_or_broken(
    changes: dict[str, Any], end: str | None
) -> None:
    sentence = evaluation_sentence(with_best(**changes))
    first = evaluation_sentence(with_best())
    # Disorder stands beside the main figure as well.
    first = first.replace("disorder 2%", f"disorder {changes.get('disorder', 0.02):.0%}")
    assert sentence == (first if end is None else f"{first} {end}")


def test_the_sentence_tells_settings_and_outputs_without_judgement() -> None:
    together = replace(SAIF, layers=(12, 14), parameters={"top": 1, "beta": 0.5}, strength=0.75)
    evaluation = with_best(together, n=48, unjudged=2)
    candidate = Candidate("saif", {"top": (1,), "beta": (0.5,)})
    asked = replace(evaluation.request, candidates=(candidate,))
    sentence = evaluation_sentence(replace(evaluation, request=asked))
    assert "at strength 0.75 (layers 12 and 14, top 1, beta 0.5), 38%" in sentence
    assert "of 48 outputs that could be judged are useful" in sentence
    assert "random latents" not in sentence
    unknown = evaluation_sentence(with_best(n=0, unjudged=50))
    assert "top 15), no output could be judged; random" in unknown


def test_a_best_setting_that_breaks_too_many_texts_is_called_the_nearest() -> None:
    evaluation = with_best(disorder=0.34)
    broken = replace(evaluation.cells[3], choosing=rates(0.9, disorder=0.3))
    evaluation = replace(evaluation, cells=(*CELLS[:3], broken, *CELLS[4:]))
    assert evaluation_sentence(evaluation).startswith(
        "No setting of saif kept broken text within 20%; this is the nearest, the one with the "
        "most useful texts. Steered with saif at strength 0.8"
    )
    assert "the nearest, the one that follows most often." in evaluation_sentence(
        as_before(evaluation)
    )
    assert evaluation_data(evaluation)["best"]["saif"]["qualifies"] is False


def test_the_sentence_takes_the_mean_difference_or_nothing_where_no_latents_ran() -> None:
    control = replace(CELLS[4].setting, arm="random", of="mean_difference")
    cells = (*CELLS[:2], CELLS[4], cell(control, 0.11))
    best = (replace(BEST[2], cell=2, p_random=0.2),)
    sentence = evaluation_sentence(sample_evaluation(cells=cells, best=best, best_sae_arm=""))
    assert sentence.startswith("Steered with mean difference at strength 1 (layers 12 and 14)")
    assert "random directions 2%" in sentence
    assert "against random directions (p = 0.20)" in sentence
    plain = sample_evaluation(cells=CELLS[:2], best=(), best_sae_arm="")
    assert evaluation_sentence(plain) == (
        "Useful outputs: unsteered 0% [0–10]; prompting 85% [75–95]."
    )
    assert evaluation_sentence(as_before(plain)) == (
        "Outputs that follow the instruction strictly: unsteered 1% [0–11]; prompting 93% [83–100]."
    )


def test_texts_go_with_the_figures_in_json_and_as_a_table_of_their_own() -> None:
    evaluation = sample_evaluation()
    texts = {3: [sample_text(3, "=1+1", content="Éa", reason="why")]}
    data = json.loads(evaluation_json(evaluation, texts))
    assert [one["text"] for one in data["texts"]["3"]] == ["=1+1"]
    assert [one["about"] for one in data["texts"]["3"]] == [True]
    assert "texts" not in json.loads(evaluation_json(evaluation))
    head, row = csv.reader(io.StringIO(texts_csv(evaluation, texts).decode()))
    found = dict(zip(head, row, strict=True))
    assert (found["cell"], found["content"], found["reason"]) == ("3", "Éa", "why")
    assert found["about"] == "True"
    # Nothing that a spreadsheet would run.
    assert found["text"] == "'=1+1"
    assert found["strength"] == "0.8"


def test_files_are_named_by_their_instruction() -> None:
    evaluation = sample_evaluation("Answer as a <b>pirate</b>!")
    other = sample_evaluation("海賊")
    assert evaluation_stem(evaluation) == f"evaluation-answer-as-a-b-pirate-b-{evaluation.id[:8]}"
    assert evaluation_stem(other) == f"evaluation-{other.id[:8]}"
