"""What earlier versions wrote, read as the records of today."""

import csv
import gzip
import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select, update

from app.charts.evaluation import pareto_chart
from app.cli.texts import evaluation_text
from app.presentation.evaluation import content_sentence
from app.presentation.evaluation_files import (
    evaluation_csv,
    evaluation_json,
    evaluation_sentence,
)
from app.presentation.evaluation_page import evaluation_html
from app.presentation.session_files import MAX_TENSORS, export_session, import_session
from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, to_json
from saif_core.records.corpus import LatentFilter
from saif_core.records.evaluation import (
    Candidate,
    CellSetting,
    Evaluation,
    EvaluationText,
    MadeEdits,
)
from saif_core.records.older import upgrade_arm_name, upgrade_evaluation, upgrade_session
from saif_core.records.ranking import ChosenLatent
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession
from saif_core.records.steering import UNSTEERED, Arm, Edit, Sampling, Schedule
from saif_core.records.texts import ArmSize
from storage import Store, open_store
from storage.tables import EvaluationRow, SessionRow
from tests.storage_samples import as_before, sample_evaluation, sample_session, sample_text

pytest_plugins = ["tests.storage_fixtures"]

ASSETS = Path(__file__).parent / "assets"
SESSION_FILE = ASSETS / "schema1.saif.json"
SAE = "smollm2-135m-instruct/layer14"
LAST_FORMAT = 1


@pytest.fixture(scope="module")
def database_bytes() -> bytes:
    return gzip.decompress((ASSETS / "schema0005.db.gz").read_bytes())


@pytest.fixture
def database_path(tmp_path: Path, database_bytes: bytes) -> Path:
    path = tmp_path / "old.db"
    path.write_bytes(database_bytes)
    return path


@pytest.fixture
def migrated(database_path: Path) -> Iterator[Store]:
    """A store on the database that an earlier version wrote."""
    opened = open_store(f"sqlite:///{database_path}")
    yield opened
    opened.close()


@pytest.fixture
def old_evaluation(database_path: Path) -> dict[str, Any]:
    """The evaluation in it, as it is stored."""
    connection = sqlite3.connect(database_path)
    (record,) = connection.execute("SELECT record FROM evaluations").fetchone()
    connection.close()
    found: dict[str, Any] = json.loads(record)
    return found


def old_session() -> dict[str, Any]:
    """The session of the file, as schema 1 has it."""
    session: dict[str, Any] = json.loads(SESSION_FILE.read_text())["session"]
    return session


class Vectors:
    """Keeps vectors under made-up hashes."""

    def __init__(self) -> None:
        self.kept: list[Sequence[float]] = []

    def put(self, vector: Sequence[float]) -> str:
        if vector not in self.kept:
            self.kept.append(vector)
        return f"vector {self.kept.index(vector)}"


def upgraded(data: dict[str, Any], vectors: Vectors | None = None) -> SteeringSession:
    return from_json(SteeringSession, upgrade_session(data, (vectors or Vectors()).put))


def arms_of(session: SteeringSession) -> dict[str, Arm]:
    assert session.request is not None
    return {arm.name: arm for arm in session.request.arms}


def test_a_session_file_of_schema_1_has_its_steered_arm_after_the_unsteered_one() -> None:
    old, session = old_session(), upgraded(old_session())
    assert session.request is not None
    unsteered, steered, *others = session.request.arms
    assert unsteered == UNSTEERED
    assert (steered.name, steered.kind, steered.strength) == ("steered", "steered", 1.0)
    (edit,) = steered.edits
    latents = tuple(ChosenLatent(x["index"], x["coefficient"]) for x in old["recipe"]["latents"])
    assert edit == Edit(14, "addition", {}, SAE, latents)
    assert edit.latents[0] == ChosenLatent(1496, 8.75055200846146)
    assert len(latents) == 15
    assert [arm.name for arm in others] == [arm["name"] for arm in old["recipe"]["arms"]]
    assert len(others) == 12
    assert session.request.prompts == ("Bread is baked every morning.",)
    assert session.request.sampling == Sampling(max_new_tokens=24, seed=3)
    assert session.request.instruction == "translate-to-french"
    assert session.request.divergence
    assert session.schema_version == SESSION_SCHEMA_VERSION


def test_arms_of_schema_1_keep_what_they_did() -> None:
    arms = arms_of(upgraded(old_session()))
    assert (arms["prompted"].kind, arms["prompted"].edits) == ("prompted", ())
    assert arms["prompted"].instruction == "Translate the sentence to French."
    assert arms["clamp"].edits[0].method == "clamp"
    assert arms["ablate"].edits[0].method == "ablate"
    for name, kind in (("random", "random"), ("flipped", "flipped"), ("logit bias", "logit-bias")):
        assert (arms[name].kind, arms[name].edits) == (kind, arms["fading"].edits)
    assert arms["fading"].schedule == Schedule("generated", 1, decay=0.2, decay_power=0.5)
    assert arms["fading"].strength == 2.0
    assert arms["prompt scope"].schedule == Schedule("prompt")
    assert arms["all keep"].schedule == Schedule("all")
    assert [name for name, arm in arms.items() if any(edit.keep_norm for edit in arm.edits)] == [
        "all keep"
    ]
    first, second = arms["two layers"].edits
    assert (first.layer, first.sae_id, len(first.latents), first.tensors) == (14, SAE, 4, "")
    assert (second.layer, second.sae_id, second.latents) == (22, "", ())
    assert arms["two layers"].schedule == Schedule("first", 5)
    assert arms["two layers"].strength == 0.5
    # What each edit adds is as strong as it was: a session's layers did not share the strength.
    assert {edit.share for arm in arms.values() for edit in arm.edits} == {1.0}


def test_recipe_and_result_of_schema_1_keep_hashes_texts_and_the_size() -> None:
    old, session = old_session(), upgraded(old_session())
    assert session.recipe is not None
    assert session.result is not None
    recipe, result = session.recipe, session.result
    assert recipe == result.recipe
    assert recipe.sae_sha256s == {SAE: old["recipe"]["sae_sha256"]}
    assert (recipe.model, recipe.plugin_sha256s, recipe.dtype) == ("smollm2-135m-instruct", {}, "")
    assert recipe.model_sha256 == old["recipe"]["model_sha256"]
    assert recipe.chat_template_sha256 == old["recipe"]["chat_template_sha256"]
    assert recipe.versions == old["recipe"]["versions"]
    size = ArmSize(48.44532012939453, 0.3724368599481507)
    assert result.sizes == (None, size, *[None] * 12)
    assert [text.text for text in result.generations] == [
        text["text"] for text in old["result"]["generations"]
    ]
    assert len(result.generations) == 14
    (changes,) = (text.changes for text in result.generations if text.changes)
    # Arms of that time had no gates.
    told = {**old["result"]["generations"][1]["changes"][0], "gates": []}
    assert json.loads(json.dumps(to_json(changes[0]))) == told
    assert session.ranking is not None
    assert json.loads(json.dumps(to_json(session.ranking))) == old["ranking"]
    assert (session.id, session.name, session.notes) == (old["id"], old["name"], old["notes"])
    assert (session.created_at, session.updated_at) == (old["created_at"], old["updated_at"])


def test_the_data_that_is_upgraded_is_left_as_it_was(old_evaluation: dict[str, Any]) -> None:
    session, evaluation = old_session(), deepcopy(old_evaluation)
    upgrade_session(session, Vectors().put)
    upgrade_evaluation(evaluation)
    assert session == old_session()
    assert evaluation == old_evaluation


def test_a_session_file_of_schema_1_is_imported_with_its_vectors_and_exported_as_today(
    store: Store,
) -> None:
    session = import_session(SESSION_FILE.read_bytes(), filename="a.json", tensors=store.tensors)
    old = {arm["name"]: arm for arm in old_session()["recipe"]["arms"]}
    arms = arms_of(session)
    for name, number in (("mean difference", 0), ("two layers", 1)):
        edit = arms[name].edits[number]
        found = store.tensors.get(edit.tensors)
        assert list(found) == ["vector"]
        assert found["vector"].dtype == np.float32
        expected = np.asarray(old[name]["edits"][number]["vector"], dtype=np.float32)
        np.testing.assert_array_equal(found["vector"], expected)
    saved = store.sessions.save(session)
    assert store.sessions.get(saved.id) == saved
    document = export_session(saved, store.tensors)
    elsewhere = open_store("sqlite://")
    again = import_session(document.encode(), filename="b.json", tensors=elsewhere.tensors)
    assert (again.recipe, again.result) == (session.recipe, session.result)
    assert len(json.loads(document)["tensors"]) == 2
    elsewhere.close()


def test_a_session_file_of_schema_1_has_only_so_many_vectors() -> None:
    document = json.loads(SESSION_FILE.read_text())
    arm = document["session"]["recipe"]["arms"][2]
    arms = [deepcopy(arm) for _ in range(MAX_TENSORS + 1)]
    for number, one in enumerate(arms):
        one["edits"][0]["vector"] = [float(number)]
    document["session"]["recipe"]["arms"] = arms
    store = open_store("sqlite://")
    with pytest.raises(StorageError, match=f"'a.json' holds more than {MAX_TENSORS} vectors"):
        import_session(json.dumps(document).encode(), filename="a.json", tensors=store.tensors)
    with pytest.raises(StorageError, match="no store was given"):
        import_session(SESSION_FILE.read_bytes(), filename="a.json")
    store.close()


def test_a_session_file_of_schema_1_without_vectors_needs_no_store() -> None:
    document = json.loads(SESSION_FILE.read_text())
    for recipe in (document["session"]["recipe"], document["session"]["result"]["recipe"]):
        recipe["arms"] = recipe["arms"][:2]
    session = import_session(json.dumps(document).encode(), filename="a.json")
    assert list(arms_of(session)) == ["unsteered", "steered", "prompted", "denoised"]


def test_a_database_of_an_earlier_version_is_migrated_and_its_session_read(
    migrated: Store,
) -> None:
    (summary,) = migrated.sessions.list()
    assert (summary.name, summary.sae, summary.n_prompts, summary.shared) == (
        "net 0.7",
        SAE,
        2,
        True,
    )
    session = migrated.sessions.get(summary.id)
    assert list(arms_of(session)) == ["unsteered", "steered", "prompted", "clamp", "two layers"]
    assert session.request is not None
    assert session.result is not None
    assert session.request.sampling == Sampling(
        max_new_tokens=24, temperature=0.7, seed=3, samples=2
    )
    assert session.request.prompts == ("Bread is baked every morning.", "What do cats eat?")
    assert len(session.result.generations) == session.request.n_texts == 20
    assert session.result.generations[0].text == "The chef is baking bread."
    assert not session.request.divergence
    assert session.share_id is not None
    assert migrated.sessions.get_shared(session.share_id) == session
    vector = arms_of(session)["two layers"].edits[1].tensors
    assert migrated.tensors.get(vector)["vector"].shape == (576,)


def test_the_rest_of_a_database_of_an_earlier_version_is_there(migrated: Store) -> None:
    (job,) = migrated.jobs.list()
    assert (job.kind, job.state, job.title) == (
        "rank",
        "done",
        "Find latents for translate-to-french",
    )
    (index,) = migrated.latents.indexes()
    assert (index.name, index.n_tokens, index.n_contexts, index.d_sae) == ("small", 48, 2, 4608)
    assert migrated.latents.density(index.id).sum() == index.n_nonzero == 3072
    (block,) = migrated.latents.blocks(index.id)
    assert block.context_starts.tolist() == [0, 24]
    notes = migrated.notes.list(index.sae_sha256, 1496)
    assert {(note.kind, note.text, note.author) for note in notes} == {
        ("label", "French words", "Ada"),
        ("star", "", "Ada"),
    }
    page = migrated.profiles.page(index.id, filters=LatentFilter(text="french"))
    assert [(row.latent, row.label, row.starred) for row in page.rows] == [
        (1496, "French words", True)
    ]
    assert migrated.profiles.get(index.id, 1496).n_fired > 0


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


def test_a_session_without_texts_keeps_its_recipe_and_prompts() -> None:
    old = {**old_session(), "result": None}
    session = upgraded(old)
    assert session.result is None
    assert session.request is not None
    assert session.request.prompts == tuple(old["prompts"])
    assert not session.request.divergence


def test_a_session_without_a_recipe_keeps_its_prompts() -> None:
    old = {**old_session(), "result": None, "recipe": None}
    session = upgraded(old)
    assert session.request is not None
    assert session.request.prompts == tuple(old["prompts"])
    assert session.request.arms == (UNSTEERED,)
    assert session.request.instruction == "translate-to-french"
    assert session.recipe is not None
    assert session.recipe.model == "smollm2-135m-instruct"
    bare = upgraded({**old, "ranking": None, "instruction": None})
    assert bare.recipe is not None
    assert (bare.recipe.model, bare.recipe.request.instruction) == ("", "")
    assert upgraded({**old, "prompts": []}).recipe is None
    assert upgraded({"name": "bare"}).recipe is None


def test_a_recipe_of_other_prompts_than_the_texts_keeps_its_own() -> None:
    old = old_session()
    old["prompts"] = ["Another prompt."]
    old["recipe"] = {**old["recipe"], "strength": 3.0}
    session = upgraded(old)
    assert session.request is not None
    assert session.result is not None
    assert session.request.prompts == ("Another prompt.",)
    assert arms_of(session)["steered"].strength == 3.0
    assert session.result.request.prompts == ("Bread is baked every morning.",)
    assert session.result.request.arms[1].strength == 1.0


def edited(change: dict[str, Any]) -> dict[str, Any]:
    """The old session without texts, its second further arm with another edit."""
    old = {**old_session(), "result": None}
    (edit,) = old["recipe"]["arms"][1]["edits"]
    old["recipe"]["arms"] = [{**old["recipe"]["arms"][1], "edits": [{**edit, **change}]}]
    return old


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ({"sae_id": "smollm2-135m-instruct/layer22"}, 22),
        ({"sae_id": "google/gemma-scope/layer_7/width_16k"}, 7),
        ({"sae_id": "layer3/of/Layer-5"}, 5),
        ({"sae_id": "mine", "layer": 9}, 9),
        ({"sae_id": SAE, "layer": 9}, 14),
        ({"sae_id": "", "latents": [], "vector": [1.0, 2.0], "layer": 0}, 0),
        # Latents were added and vectors beside them left alone.
        ({"vector": [1.0, 2.0], "layer": 3}, 14),
    ],
)
def test_every_edit_is_given_its_layer(change: dict[str, Any], layer: int) -> None:
    (edit,) = arms_of(upgraded(edited(change)))["denoised"].edits
    assert edit.layer == layer
    assert bool(edit.latents) != bool(edit.tensors)
    assert bool(edit.latents) == bool(edit.sae_id)


def test_the_ranking_tells_the_layer_of_its_sae_too() -> None:
    old = edited({"sae_id": "ranked"})
    old["ranking"] = {**old["ranking"], "sae": "ranked", "hook_point": "blocks.3.hook_resid_post"}
    assert arms_of(upgraded(old))["denoised"].edits[0].layer == 3


def test_a_vector_is_kept_once_and_one_with_an_sae_belongs_to_none() -> None:
    vectors = Vectors()
    session = upgraded(edited({"latents": [], "vector": [1, -2.5], "layer": 3}), vectors)
    (edit,) = arms_of(session)["denoised"].edits
    assert edit == Edit(3, tensors="vector 0")
    assert vectors.kept == [[1, -2.5]]


def test_an_edit_with_nothing_to_write_goes() -> None:
    assert arms_of(upgraded(edited({"latents": []})))["denoised"].edits == ()


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(recipe: dict[str, Any]) -> None:
        del recipe[name]

    return change


def with_value(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(recipe: dict[str, Any]) -> None:
        recipe[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("sae"), "the field 'sae' is missing"),
        (without("hook_point"), "the field 'hook_point' is missing"),
        (without("model"), "the field recipe.model is missing"),
        (with_value("colour", 1), "the field recipe.colour is unknown"),
        (with_value("strength", "much"), "strength"),
        (with_value("strength", 1e9), "strength"),
        (with_value("scope", "everywhere"), "schedule.scope"),
        (with_value("samples", 0), "sampling.samples"),
        (with_value("hook_point", "blocks.1.hook_mlp_out"), "is not the end of a block"),
        (with_value("hook_point", None), "of another type"),
        (with_value("sae", ["x"]), "of another type"),
        (with_value("latents", [{"index": 1}]), "coefficient is missing"),
        (with_value("latents", 3), "latents"),
        (with_value("arms", 3), "of another type"),
        (with_value("arms", [3]), "of another type"),
        (with_value("arms", [[["name", "x"]]]), "of another type"),
        (with_value("arms", [{"name": "x", "edits": [{"vector": "abc"}]}]), "not a vector"),
        (with_value("arms", [{"name": "x", "edits": [{"vector": [True]}]}]), "not a vector"),
        (with_value("arms", [{"name": "x", "edits": [{"vector": [1e39]}]}]), "not a vector"),
        (with_value("arms", [{"name": "x", "edits": [{"vector": [1.0]}]}]), "layer"),
        (
            with_value(
                "arms",
                [
                    {
                        "name": "x",
                        "edits": [{"sae_id": "mine", "latents": [{"index": 1, "coefficient": 1}]}],
                    }
                ],
            ),
            "does not tell the layer",
        ),
    ],
)
def test_a_session_that_cannot_be_upgraded_is_refused(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    old = {**old_session(), "result": None}
    change(old["recipe"])
    with pytest.raises(ValueError, match=message):
        upgraded(old)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("result", 3),
        ("result", {}),
        ("ranking", [1]),
        ("recipe", "none"),
        ("prompts", 3),
        ("prompts", "no list"),
        ("surprise", 1),
    ],
)
def test_other_damage_is_refused_as_well(part: str, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        upgraded({**old_session(), "result": None, "recipe": None, part: value})
    result = {**old_session()["result"], "generations": [{"prompt_index": [], "prompt": ""}]}
    with pytest.raises(ValueError, match="of another type"):
        upgraded({**old_session(), "result": result})
    with pytest.raises(ValueError, match="of another type"):
        upgrade_session([], Vectors().put)  # type: ignore[arg-type]


def keep_old_session(store: Store, data: dict[str, Any], **columns: Any) -> None:
    """Put a row into the database as an earlier version did."""
    values = {
        "id": data.get("id", "id"),
        "name": data.get("name", "name"),
        "instruction": "translate-to-french",
        "model": "smollm2-135m-instruct",
        "sae": SAE,
        "n_prompts": 1,
        "schema_version": LAST_FORMAT,
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:00+00:00",
        "saved_seconds": 1.0,
        "search_text": "net",
        "record": json.dumps(data),
        **columns,
    }
    with store._database.transaction("Writing a row", write=True) as db:
        db.execute(insert(SessionRow).values(**values))


def stored_version(store: Store, session_id: str) -> int:
    query = select(SessionRow.schema_version).where(SessionRow.id == session_id)
    with store._database.transaction("Looking") as db:
        return db.scalars(query).one()


def test_old_sessions_are_read_in_every_kind_of_database(store: Store) -> None:
    old = old_session()
    keep_old_session(store, old, share_id="shared")
    session = store.sessions.get(old["id"])
    assert replace(session, share_id=None).result == upgraded_in(store, old).result
    assert session.share_id == "shared"
    assert store.sessions.get_shared("shared") == session
    assert stored_version(store, old["id"]) == LAST_FORMAT
    for name, number in (("mean difference", 0), ("two layers", 1)):
        edit = arms_of(session)[name].edits[number]
        assert store.tensors.get(edit.tensors)["vector"].shape == (576,)


def upgraded_in(store: Store, data: dict[str, Any]) -> SteeringSession:
    return from_json(SteeringSession, upgrade_session(data, store.tensors.put_vector))


def test_old_sessions_are_saved_renamed_and_copied_as_those_of_today(store: Store) -> None:
    old = old_session()
    for number, act in enumerate(
        (
            lambda id: store.sessions.save(replace(store.sessions.get(id), notes="changed")),
            lambda id: store.sessions.rename(id, "new name"),
            lambda id: store.sessions.duplicate(id),
        )
    ):
        keep_old_session(store, {**old, "id": f"old {number}"})
        made = act(f"old {number}")
        assert stored_version(store, made.id) == SESSION_SCHEMA_VERSION
        assert store.sessions.get(made.id) == made
        vector = arms_of(made)["mean difference"].edits[0].tensors
        assert store.tensors.has(vector)
    assert stored_version(store, "old 2") == LAST_FORMAT
    assert {found.name for found in store.sessions.list()} == {
        old["name"],
        "new name",
        f"{old['name']} (copy)",
    }


@pytest.mark.parametrize(
    "data",
    [
        {**old_session(), "surprise": 1},
        {**old_session(), "recipe": {}},
        {"name": "n", "result": {"recipe": []}},
        {},
        # A session of today in a row that says otherwise.
        to_json(sample_session()),
    ],
)
def test_an_old_session_that_cannot_be_upgraded_is_one_error(
    data: dict[str, Any], store: Store
) -> None:
    keep_old_session(store, {**data, "id": "old"}, id="old")
    for act in (store.sessions.get, store.sessions.duplicate):
        with pytest.raises(StorageError, match="not a complete session"):
            act("old")
    store.sessions.delete("old")
    assert store.sessions.list() == []


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
