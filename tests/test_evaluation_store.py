"""Evaluations in every kind of database: saved with their texts, found, replaced and deleted."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.evaluation import EvaluationSummary
from storage import Store
from storage.tables import EvaluationRow, EvaluationTextsRow
from tests.storage_samples import KEPT_TEXT, ODD_TEXT, as_before, sample_evaluation, sample_text

pytest_plugins = ["tests.storage_fixtures"]

TEXTS = (
    sample_text(0, "first of cell 0"),
    sample_text(
        2, ODD_TEXT, content=ODD_TEXT, reason=ODD_TEXT, grade=None, perplexity=None, about=False
    ),
    sample_text(0, "second of cell 0", grade="none", outcome="disorder", about=None),
)


def change_rows(store: Store, row: type[Any], cell: int | None = None, **values: Any) -> None:
    changed = update(row).values(**values)
    if cell is not None:
        changed = changed.where(row.cell == cell)
    with store._database.transaction("Changing rows", write=True) as db:
        db.execute(changed)


def n_text_rows(store: Store) -> int:
    with store._database.transaction("Counting rows") as db:
        return db.scalar(select(func.count()).select_from(EvaluationTextsRow)) or 0


def test_an_evaluation_comes_back_as_it_was_with_the_texts_of_each_cell(store: Store) -> None:
    evaluation = sample_evaluation(ODD_TEXT, model=ODD_TEXT, versions={ODD_TEXT: "1"})
    store.evaluations.save(evaluation, TEXTS)
    kept = sample_evaluation(
        KEPT_TEXT,
        model=KEPT_TEXT,
        versions={KEPT_TEXT: "1"},
        id=evaluation.id,
        created_at=evaluation.created_at,
    )
    assert store.evaluations.get(evaluation.id) == kept
    assert store.evaluations.texts(evaluation.id, 0) == [TEXTS[0], TEXTS[2]]
    kept_text = replace(TEXTS[1], text=KEPT_TEXT, content=KEPT_TEXT, reason=KEPT_TEXT)
    assert store.evaluations.texts(evaluation.id, 2) == [kept_text]
    assert store.evaluations.texts(evaluation.id, 1) == []
    (listed,) = store.evaluations.list()
    assert listed.instruction == ODD_TEXT.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    assert store.evaluations.list(instruction=ODD_TEXT) == [listed]


def test_saving_again_replaces_the_figures_and_all_texts(store: Store) -> None:
    evaluation = sample_evaluation()
    other = sample_evaluation()
    store.evaluations.save(evaluation, TEXTS)
    store.evaluations.save(other, TEXTS)
    again = replace(evaluation, cells=evaluation.cells[:2], best=(), best_sae_arm="")
    new = sample_text(1, "new")
    store.evaluations.save(again, (new,))
    assert store.evaluations.get(evaluation.id) == again
    assert [store.evaluations.texts(evaluation.id, cell) for cell in range(3)] == [[], [new], []]
    assert store.evaluations.texts(other.id, 0) == [TEXTS[0], TEXTS[2]]
    assert [found.n_cells for found in store.evaluations.list()] == [3, 2]


def test_the_list_sums_evaluations_up_newest_first(store: Store) -> None:
    names = ("french", "german", "french")
    made = [sample_evaluation(name) for name in names]
    made[0] = replace(made[0], best=(), best_sae_arm="")
    for evaluation in made:
        store.evaluations.save(evaluation, ())
    ids = [evaluation.id for evaluation in made]
    assert [found.id for found in store.evaluations.list()] == ids[::-1]
    assert [found.id for found in store.evaluations.list(instruction="french")] == [ids[2], ids[0]]
    assert store.evaluations.list(instruction="fren") == []
    assert [len(store.evaluations.list(limit=limit)) for limit in (-1, 0, 2, 9)] == [0, 0, 2, 3]
    newest, _, oldest = store.evaluations.list()
    assert newest == EvaluationSummary(
        ids[2], "french", "tiny", 3, 100, "saif", 0.46, 0.23, made[2].created_at
    )
    assert (oldest.best_sae_arm, oldest.best_strict, oldest.best_useful) == ("", None, None)


def test_of_an_evaluation_of_before_the_useful_rate_is_not_known(store: Store) -> None:
    evaluation = as_before(sample_evaluation())
    store.evaluations.save(evaluation, (sample_text(0, "a", about=None),))
    assert store.evaluations.get(evaluation.id) == evaluation
    (text,) = store.evaluations.texts(evaluation.id, 0)
    assert text.about is None
    (listed,) = store.evaluations.list()
    assert (listed.best_strict, listed.best_useful) == (0.46, None)


def test_a_deleted_evaluation_is_gone_with_its_texts(store: Store) -> None:
    kept, gone = sample_evaluation(), sample_evaluation()
    store.evaluations.save(kept, TEXTS)
    store.evaluations.save(gone, TEXTS)
    store.evaluations.delete(gone.id)
    assert [found.id for found in store.evaluations.list()] == [kept.id]
    assert n_text_rows(store) == 2
    for use in (store.evaluations.get, store.evaluations.delete):
        with pytest.raises(UnknownNameError, match=kept.id):
            use(gone.id)
    assert store.evaluations.texts(kept.id, 0) == [TEXTS[0], TEXTS[2]]


@pytest.mark.parametrize("unknown", ["", "no such id", ODD_TEXT])
def test_an_unknown_id_is_one_sentence_with_the_newest_ids(unknown: str, store: Store) -> None:
    made = [sample_evaluation() for _ in range(12)]
    for evaluation in made:
        store.evaluations.save(evaluation, TEXTS)
    with pytest.raises(UnknownNameError, match="no evaluation called") as raised:
        store.evaluations.get(unknown)
    assert raised.value.known == [found.id for found in made[:1:-1]] + ["and 2 more"]
    with pytest.raises(UnknownNameError):
        store.evaluations.texts(unknown, 0)
    with pytest.raises(UnknownNameError):
        store.evaluations.delete(unknown)
    assert len(store.evaluations.list()) == 12


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"seconds": float("nan")}, ()),
        ({}, (sample_text(0, "a"), sample_text(1, "b", perplexity=float("inf")))),
    ],
)
def test_a_number_that_is_not_finite_leaves_what_was_there(
    changes: dict[str, Any], texts: Any, store: Store
) -> None:
    evaluation = sample_evaluation()
    store.evaluations.save(evaluation, TEXTS)
    with pytest.raises(StorageError, match="not finite"):
        store.evaluations.save(replace(evaluation, best=(), **changes), texts)
    assert store.evaluations.get(evaluation.id) == evaluation
    assert store.evaluations.texts(evaluation.id, 0) == [TEXTS[0], TEXTS[2]]


def test_only_the_texts_that_are_asked_for_are_read(store: Store) -> None:
    evaluation = sample_evaluation()
    store.evaluations.save(evaluation, TEXTS)
    change_rows(store, EvaluationTextsRow, cell=2, texts=b"damaged")
    change_rows(store, EvaluationRow, record="damaged")
    assert store.evaluations.texts(evaluation.id, 0) == [TEXTS[0], TEXTS[2]]
    with pytest.raises(StorageError, match="not complete"):
        store.evaluations.texts(evaluation.id, 2)
    assert len(store.evaluations.list()) == 1


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"latents": 1}', "[" * 100_000])
def test_a_damaged_evaluation_is_one_sentence(record: str, store: Store) -> None:
    evaluation = sample_evaluation()
    store.evaluations.save(evaluation, ())
    change_rows(store, EvaluationRow, record=record)
    with pytest.raises(StorageError, match="not complete") as raised:
        store.evaluations.get(evaluation.id)
    assert "\n" not in str(raised.value)
    store.evaluations.delete(evaluation.id)
    assert store.evaluations.list() == []
