"""Sessions and databases that earlier versions wrote, read as the records of today."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select

from app.presentation.session_files import MAX_TENSORS, export_session, import_session
from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, to_json
from saif_core.records.corpus import LatentFilter
from saif_core.records.older import upgrade_evaluation, upgrade_session
from saif_core.records.ranking import ChosenLatent
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession
from saif_core.records.steering import UNSTEERED, Arm, Edit, Sampling, Schedule
from saif_core.records.texts import ArmSize
from storage import Store, open_store
from storage.tables import SessionRow
from tests.storage_samples import sample_session

pytest_plugins = ["tests.older_fixtures", "tests.storage_fixtures"]

SESSION_FILE = Path(__file__).parent / "assets" / "schema1.saif.json"
SAE = "smollm2-135m-instruct/layer14"
LAST_FORMAT = 1


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
