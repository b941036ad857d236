"""Evaluations that earlier versions wrote, read as the records of today."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from app.charts.evaluation import pareto_chart
from app.cli.texts import evaluation_text
from app.presentation.evaluation import content_sentence
from app.presentation.evaluation_files import (
    evaluation_csv,
    evaluation_json,
    evaluation_sentence,
)
from app.presentation.evaluation_page import evaluation_html
from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import (
    Candidate,
    CellSetting,
    Evaluation,
    EvaluationText,
    MadeEdits,
)
from saif_core.records.older import upgrade_arm_name, upgrade_evaluation
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit, Sampling, Schedule
from storage import Store, open_store
from storage.tables import EvaluationRow
from tests.storage_samples import as_before, sample_evaluation, sample_text

pytest_plugins = ["tests.older_fixtures", "tests.storage_fixtures"]

SAE = "smollm2-135m-instruct/layer14"


def test_the_evaluation_of_an_earlier_version_is_read_with_its_texts(
    migrated: Store, old_evaluation: dict[str, Any]
) -> None:
    (summary,) = migrated.evaluations.list()
    assert (summary.n_cells, summary.n, summary.best_sae_arm, summary.best_strict) == (
        24,
        4,
        "saif",
        0.5,
    )
    assert summary.best_useful is None
    evaluation = migrated.evaluations.get(summary.id)
    assert evaluation.best_sae_arm == "saif"
    assert [(best.arm, best.cell, best.rates.strict) for best in evaluation.best] == [
        ("unsteered", 0, 0.0),
        ("prompted", 1, 1.0),
        ("saif", 3, 0.5),
        ("one_latent", 5, 1.0),
        ("saif by clamp", 6, 0.5),
        ("denoised", 9, 1.0),
        ("mean_difference", 10, 0.5),
    ]
    for cell, old in zip(evaluation.cells, old_evaluation["cells"], strict=True):
        unknown = {"useful": None, "useful_ci": None}
        assert json.loads(json.dumps(to_json(cell.rates))) == {**old["rates"], **unknown}
        assert cell.rates.primary == old["rates"]["strict"]
        assert cell.p_prompted is None
        assert (cell.resid_share, cell.p_unsteered, cell.p_random) == (
            old["resid_share"],
            old["p_unsteered"],
            old["p_random"],
        )
    texts = [migrated.evaluations.texts(summary.id, cell) for cell in range(24)]
    assert [len(some) for some in texts] == [4] * 24
    assert texts[1][0].text == "Oui, je ne sais quai pas. Il y aime,"
    assert (texts[1][0].grade, texts[1][0].outcome) == ("strict", "success")
    assert texts[1][0].about is None


def test_every_door_shows_an_evaluation_of_an_earlier_version(migrated: Store) -> None:
    (summary,) = migrated.evaluations.list()
    evaluation = migrated.evaluations.get(summary.id)
    texts = {cell: migrated.evaluations.texts(summary.id, cell) for cell in range(24)}
    told = content_sentence(evaluation)
    assert "before texts were checked for their content" in told
    assert told in evaluation_html(evaluation, texts).decode()
    assert told in evaluation_text(evaluation)
    assert "follow the instruction strictly" in evaluation_sentence(evaluation)
    data = json.loads(evaluation_json(evaluation, texts))
    assert (data["primary"], data["cells"][1]["useful"], data["texts"]["1"][0]["about"]) == (
        "strict",
        None,
        None,
    )
    rows = list(csv.DictReader(io.StringIO(evaluation_csv(evaluation).decode(), newline="")))
    assert {row["useful"] for row in rows} == {""}
    assert pareto_chart(evaluation).to_dict()["layer"]


def test_an_evaluation_kept_without_useful_rates_is_read_as_one_of_before() -> None:
    evaluation = sample_evaluation()
    data: Any = json.loads(json.dumps(to_json(evaluation)))
    for name in ("content_measure", "content_reason"):
        del data[name]
    for one in (*data["cells"], *data["best"]):
        del one["p_prompted"]
        for rates in ("rates", "choosing", "reporting"):
            for name in ("useful", "useful_ci") if rates in one else ():
                del one[rates][name]
    assert from_json(Evaluation, upgrade_evaluation(data)) == as_before(evaluation)
    text: Any = to_json(sample_text(0, "a", about=None))
    del text["about"]
    assert from_json(EvaluationText, text) == sample_text(0, "a", about=None)


def test_the_request_of_an_earlier_evaluation_has_candidates_with_grids(
    old_evaluation: dict[str, Any],
) -> None:
    request = from_json(Evaluation, upgrade_evaluation(old_evaluation)).request
    assert request.baselines == ("unsteered", "prompted")
    assert request.candidates == (
        Candidate("saif", {"top": (15,), "beta": (0.0,)}),
        Candidate("one_latent", {"beta": (0.0,)}),
        Candidate("saif", {"top": (15,), "beta": (0.0,)}, "clamp"),
        Candidate("denoised", {"top": (60,)}),
        Candidate("mean_difference"),
    )
    assert request.controls == ("random", "flipped", "logit-bias")
    assert (request.controls_of, request.layers, request.strengths) == ("best", (), (0.75, 1.5))
    assert request.sampling == Sampling(max_new_tokens=16, temperature=0.5)
    assert request.schedule == Schedule()
    assert request.selector == "sensitivity"


def test_settings_of_an_earlier_evaluation_have_the_parameters_of_their_sources(
    old_evaluation: dict[str, Any],
) -> None:
    evaluation = from_json(Evaluation, upgrade_evaluation(old_evaluation))
    saif = {"top": 15, "beta": 0.0, "least_output_score": 0.0}
    by_arm = {cell.setting.arm: cell.setting for cell in evaluation.cells if not cell.setting.of}
    assert by_arm == {
        "unsteered": CellSetting("unsteered"),
        "prompted": CellSetting("prompted"),
        "saif": CellSetting("saif", "", (14,), saif, 1.5),
        "one_latent": CellSetting("one_latent", "", (14,), {"latent": None, "beta": 0.0}, 1.5),
        "saif by clamp": CellSetting("saif by clamp", "", (14,), saif, 1.5),
        "denoised": CellSetting("denoised", "", (14,), {"top": 60}, 1.5),
        "mean_difference": CellSetting("mean_difference", "", (14,), {}, 1.5),
    }
    controls = [cell.setting for cell in evaluation.cells if cell.setting.of]
    assert [(one.arm, one.of) for one in controls] == [
        (control, of)
        for of in ("saif", "one_latent", "denoised", "mean_difference")
        for control in ("random", "flipped", "logit-bias")
    ]
    assert all(replace(one, arm=one.of, of="") in set(by_arm.values()) for one in controls[:9])


def test_what_an_earlier_evaluation_steered_with_is_known_but_for_vectors(
    old_evaluation: dict[str, Any],
) -> None:
    evaluation = from_json(Evaluation, upgrade_evaluation(old_evaluation))
    assert [made.arm for made in evaluation.made] == [
        "saif",
        "one_latent",
        "saif by clamp",
        "denoised",
    ]
    kept = {name: old_evaluation[name]["14"] for name in ("latents", "denoised")}
    latents, denoised = (
        tuple(ChosenLatent(x["index"], x["coefficient"]) for x in kept[name])
        for name in ("latents", "denoised")
    )
    edits = {made.arm: made.edits for made in evaluation.made}
    assert edits["saif"] == (Edit(14, "addition", {}, SAE, latents),)
    assert edits["one_latent"] == (Edit(14, "addition", {}, SAE, latents[:1]),)
    assert edits["saif by clamp"] == (Edit(14, "clamp", {}, SAE, latents),)
    assert edits["denoised"] == (Edit(14, "addition", {}, SAE, denoised),)
    assert (len(latents), len(denoised), latents[0].index) == (15, 60, 2398)
    for cell in evaluation.cells:
        made = evaluation.made_for(cell.setting)
        steered = cell.setting.of or cell.setting.arm
        assert (made.arm if made else None) == (steered if steered in edits else None)


def test_an_evaluation_of_today_is_left_as_it_is() -> None:
    data = to_json(sample_evaluation())
    assert upgrade_evaluation(data) is data


@pytest.mark.parametrize("data", [[], "text", None, {}, {"request": 1}])
def test_what_is_no_evaluation_is_left_for_others_to_refuse(data: Any) -> None:
    assert upgrade_evaluation(data) is data


def one_candidate(old: dict[str, Any], arm: str, **request: Any) -> dict[str, Any]:
    """An old evaluation of a single arm, at every k, β and place that its request names."""
    places = [[14], [22], [14, 22]] if len(request.get("sae_ids", [SAE])) == 2 else [[14]]
    cells = [
        {**old["cells"][2], "setting": {**old["cells"][2]["setting"], **setting, "arm": arm}}
        for layers in places
        for setting in (
            {"layers": layers, "k": k, "beta": beta}
            for k in request.get("tops", [15])
            for beta in request.get("betas", [0.0])
        )
    ]
    return {
        **old,
        "request": {**old["request"], "arms": [arm], **request},
        "cells": cells,
        "best": [],
        "best_sae_arm": arm,
    }


def made_of(data: dict[str, Any]) -> tuple[MadeEdits, ...]:
    return from_json(Evaluation, upgrade_evaluation(data)).made


def test_fewer_latents_are_the_best_of_those_that_were_kept(
    old_evaluation: dict[str, Any],
) -> None:
    made = made_of(one_candidate(old_evaluation, "saif", tops=[5, 15]))
    assert [len(one.edits[0].latents) for one in made] == [5, 15]
    assert made[0].edits[0].latents == made[1].edits[0].latents[:5]


def test_latents_that_cannot_be_told_are_left_out(old_evaluation: dict[str, Any]) -> None:
    # Of 20, 5 never fired, so which of the others were among the best 10 is not known.
    made = made_of(one_candidate(old_evaluation, "saif", tops=[10, 20]))
    assert [one.parameters["top"] for one in made] == [20]
    made = made_of(one_candidate(old_evaluation, "clamp", betas=[0.5, 1.0]))
    assert [one.parameters["beta"] for one in made] == [0.5]
    assert made_of({**one_candidate(old_evaluation, "saif"), "latents": {}}) == ()
    assert made_of(one_candidate(old_evaluation, "mean-difference")) == ()


def test_one_latent_is_the_first_of_those_that_were_kept(old_evaluation: dict[str, Any]) -> None:
    (made,) = made_of(one_candidate(old_evaluation, "one-latent", tops=[1]))
    assert [latent.index for latent in made.edits[0].latents] == [2398]


def test_several_layers_shared_the_strength(old_evaluation: dict[str, Any]) -> None:
    other = "smollm2-135m-instruct/layer22"
    old = one_candidate(old_evaluation, "saif", sae_ids=[SAE, other], together=True)
    old["latents"] = {"14": old["latents"]["14"], "22": old["latents"]["14"][::-1]}
    made = made_of(old)
    assert [(one.layers, [edit.share for edit in one.edits]) for one in made] == [
        ((14,), [1.0]),
        ((22,), [1.0]),
        ((14, 22), [0.5, 0.5]),
    ]
    assert [edit.sae_id for edit in made[2].edits] == [SAE, other]
    assert made[2].edits[1].latents == made[2].edits[0].latents[::-1]


def test_the_layer_of_an_sae_is_known_by_its_order_whatever_its_id(
    old_evaluation: dict[str, Any],
) -> None:
    old = one_candidate(old_evaluation, "saif", sae_ids=["mine"])
    assert [edit.sae_id for edit in made_of(old)[0].edits] == ["mine"]
    # With fewer layers than SAEs, the id has to tell.
    old["request"]["sae_ids"] = ["mine", "a folder/layer14", "layer7/b"]
    assert [edit.sae_id for edit in made_of(old)[0].edits] == ["a folder/layer14"]
    old["request"]["sae_ids"] = ["mine", "yours"]
    assert made_of(old) == ()


def test_ablation_and_the_least_output_score_are_kept(old_evaluation: dict[str, Any]) -> None:
    old = one_candidate(old_evaluation, "ablate", least_output_score=0.25, betas=[0.0, 1.0])
    for cell in old["cells"]:
        cell["setting"]["beta"] = None
    old["cells"] = old["cells"][:1]
    evaluation = from_json(Evaluation, upgrade_evaluation(old))
    grid = {"top": (15,), "least_output_score": (0.25,)}
    assert evaluation.request.candidates == (Candidate("saif", grid, "ablate"),)
    (cell,) = evaluation.cells
    parameters = {"top": 15, "beta": 0.0, "least_output_score": 0.25}
    assert (cell.setting.arm, cell.setting.parameters) == ("saif by ablate", parameters)
    made = evaluation.made_for(cell.setting)
    assert made is not None
    assert made.edits[0].method == "ablate"
    assert evaluation.best_sae_arm == "saif by ablate"


def test_an_evaluation_of_baselines_alone_is_read(old_evaluation: dict[str, Any]) -> None:
    old = {
        **old_evaluation,
        "request": {**old_evaluation["request"], "arms": ["unsteered"], "sae_ids": ["mine"]},
        "cells": old_evaluation["cells"][:1],
        "best": old_evaluation["best"][:1],
        "best_sae_arm": "",
        "latents": {},
        "denoised": {},
    }
    evaluation = from_json(Evaluation, upgrade_evaluation(old))
    assert evaluation.request.arms == ("unsteered",)
    assert evaluation.made == ()
    del old["denoised"]
    assert from_json(Evaluation, upgrade_evaluation(old)) == evaluation


def test_names_of_arms_that_did_not_change_stay() -> None:
    assert upgrade_arm_name("ablate") == "saif by ablate"
    for name in ("", "saif", "denoised", "unsteered", "prompted", "one_latent", "my source"):
        assert upgrade_arm_name(name) == name


def test_old_evaluations_are_read_in_every_kind_of_database(
    store: Store, old_evaluation: dict[str, Any]
) -> None:
    new = sample_evaluation(id=old_evaluation["id"])
    store.evaluations.save(new, ())
    values = {"record": json.dumps(old_evaluation), "best_sae_arm": "clamp"}
    with store._database.transaction("Writing as before", write=True) as db:
        db.execute(update(EvaluationRow).values(**values))
    found = store.evaluations.get(new.id)
    assert found == from_json(Evaluation, upgrade_evaluation(old_evaluation))
    assert store.evaluations.list()[0].best_sae_arm == "saif by clamp"
    store.evaluations.save(found, ())
    assert store.evaluations.get(new.id) == found
    assert store.evaluations.list()[0].best_sae_arm == "saif"


@pytest.mark.parametrize(
    "change",
    [
        {"cells": 1},
        {"cells": [{}]},
        {"surprise": 1},
        {"request": {"tops": 1}},
        {"request": {"tops": [1]}},
        {"latents": []},
        {"best": [1]},
        {"best_sae_arm": ["x"]},
    ],
)
def test_an_old_evaluation_that_cannot_be_upgraded_is_one_error(
    change: dict[str, Any], old_evaluation: dict[str, Any]
) -> None:
    store = open_store("sqlite://")
    new = sample_evaluation()
    store.evaluations.save(new, ())
    with store._database.transaction("Writing as before", write=True) as db:
        db.execute(update(EvaluationRow).values(record=json.dumps({**old_evaluation, **change})))
    with pytest.raises(StorageError, match="not complete"):
        store.evaluations.get(new.id)
    store.close()
