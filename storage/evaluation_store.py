"""Evaluations in the database: the figures of each whole, its texts cell by cell."""

import builtins
import json
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import valid_text
from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.as_json import from_json
from saif_core.records.evaluation import Evaluation, EvaluationSummary, EvaluationText
from saif_core.records.older import upgrade_arm_name, upgrade_evaluation
from storage.database import Database, some_ids
from storage.tables import EvaluationRow, EvaluationTextsRow


class EvaluationStore:
    """Finished evaluations by id; safe from several threads and processes.

    Evaluations of earlier versions are read as if they had been saved today.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, evaluation: Evaluation, texts: Sequence[EvaluationText]) -> None:
        """Keep an evaluation with its texts, all or nothing; one of the same id is replaced.

        Raises:
            StorageError: something in it is no JSON, such as a number that is not finite, or the
                database refused.
        """
        values = _to_columns(evaluation)
        packed = _packed(texts)
        insert = self._database.insert(EvaluationRow).values(values)
        upsert = insert.on_conflict_do_update(
            index_elements=["id"], set_={name: values[name] for name in values if name != "id"}
        )
        with self._database.transaction("Saving the evaluation", write=True) as db:
            number = db.scalars(upsert.returning(EvaluationRow.number)).one()
            _delete_texts(db, number)
            db.add_all(EvaluationTextsRow(number=number, cell=c, texts=t) for c, t in packed)

    def get(self, evaluation_id: str) -> Evaluation:
        """The evaluation with that id.

        Raises:
            UnknownNameError: there is none.
            StorageError: it cannot be read, or the database refused.
        """
        query = select(EvaluationRow.record).where(EvaluationRow.id == valid_text(evaluation_id))
        with self._database.transaction("Reading the evaluation") as db:
            record = db.scalar(query)
            if record is None:
                raise _unknown(db, evaluation_id)
        try:
            return from_json(Evaluation, upgrade_evaluation(json.loads(record)))
        except (ValueError, TypeError, RecursionError) as error:
            raise _unreadable(evaluation_id) from error

    def texts(self, evaluation_id: str, cell: int) -> builtins.list[EvaluationText]:
        """The texts of one cell, in the order in which they were saved.

        Raises:
            UnknownNameError: there is no such evaluation.
            StorageError: they cannot be read, or the database refused.
        """
        query = (
            select(EvaluationRow.number, EvaluationTextsRow.texts)
            .outerjoin(
                EvaluationTextsRow,
                (EvaluationTextsRow.number == EvaluationRow.number)
                & (EvaluationTextsRow.cell == cell),
            )
            .where(EvaluationRow.id == valid_text(evaluation_id))
        )
        with self._database.transaction("Reading the texts of an evaluation") as db:
            row = db.execute(query).one_or_none()
            if row is None:
                raise _unknown(db, evaluation_id)
        if row.texts is None:
            return []
        try:
            found = json.loads(zlib.decompress(row.texts))
            return [from_json(EvaluationText, text) for text in found]
        except (ValueError, RecursionError, zlib.error) as error:
            raise _unreadable(evaluation_id) from error

    def list(self, *, instruction: str = "", limit: int = 100) -> builtins.list[EvaluationSummary]:
        """Evaluations, the newest first.

        Args:
            instruction: name of an instruction, to list its evaluations only.
            limit: how many at most.

        Raises:
            StorageError: the database refused.
        """
        query = select(
            EvaluationRow.id,
            EvaluationRow.instruction,
            EvaluationRow.model,
            EvaluationRow.n_cells,
            EvaluationRow.n,
            EvaluationRow.best_sae_arm,
            EvaluationRow.best_strict,
            EvaluationRow.best_useful,
            EvaluationRow.created_at,
        )
        if instruction:
            query = query.where(EvaluationRow.instruction == valid_text(instruction))
        query = query.order_by(EvaluationRow.number.desc()).limit(max(0, limit))
        with self._database.transaction("Listing the evaluations") as db:
            found = [EvaluationSummary(**row._mapping) for row in db.execute(query)]
        return [replace(one, best_sae_arm=upgrade_arm_name(one.best_sae_arm)) for one in found]

    def delete(self, evaluation_id: str) -> None:
        """Remove an evaluation and its texts for good.

        Raises:
            UnknownNameError: there is none with that id.
            StorageError: the database refused.
        """
        remove = delete(EvaluationRow).where(EvaluationRow.id == valid_text(evaluation_id))
        with self._database.transaction("Deleting the evaluation", write=True) as db:
            number = db.scalar(remove.returning(EvaluationRow.number))
            if number is None:
                raise _unknown(db, evaluation_id)
            _delete_texts(db, number)


def _delete_texts(db: OrmSession, number: int) -> None:
    db.execute(delete(EvaluationTextsRow).where(EvaluationTextsRow.number == number))


def _unknown(db: OrmSession, evaluation_id: str) -> UnknownNameError:
    newest = select(EvaluationRow.id).order_by(EvaluationRow.number.desc())
    return UnknownNameError("evaluation", evaluation_id, some_ids(db, newest))


def _unreadable(evaluation_id: str) -> StorageError:
    return StorageError(
        f"Evaluation {evaluation_id!r} was to be read, but what is stored is not complete; restore "
        "the database from a backup, or delete the evaluation and run it again."
    )


def _to_columns(evaluation: Evaluation) -> dict[str, Any]:
    best = {found.arm: found.rates for found in evaluation.best}.get(evaluation.best_sae_arm)
    return {
        "id": valid_text(evaluation.id),
        "instruction": valid_text(evaluation.request.instruction.name),
        "model": valid_text(evaluation.model),
        "n_cells": len(evaluation.cells),
        "n": len(evaluation.request.test_contents),
        "best_sae_arm": valid_text(evaluation.best_sae_arm),
        "best_strict": best.strict if best else None,
        "best_useful": best.useful if best else None,
        "created_at": valid_text(evaluation.created_at),
        "record": _written(evaluation),
    }


def _packed(texts: Sequence[EvaluationText]) -> list[tuple[int, bytes]]:
    """The texts of each cell as compressed JSON."""
    by_cell: dict[int, list[str]] = defaultdict(list)
    for text in texts:
        by_cell[text.cell].append(_written(text))
    return [
        (cell, zlib.compress(f"[{','.join(rows)}]".encode("ascii")))
        for cell, rows in by_cell.items()
    ]


def _written(record: Evaluation | EvaluationText) -> str:
    try:
        return json.dumps(asdict(record), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(
            "An evaluation was to be saved, but it holds something that JSON cannot write, such as "
            "a number that is not finite; run it again."
        ) from error
