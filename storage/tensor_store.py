"""Learned tensors by content: steering vectors, low-rank maps and what else a text came from.

An entry is some named tensors as safetensors bytes, under the SHA-256 of these bytes, so whoever
holds the hash gets exactly what was put there. Numbers that can be computed again belong into the
cache; an entry here goes only when nothing names it any more.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
from safetensors.numpy import load, save
from sqlalchemy import delete, select, update

from saif_core.characters import is_valid_text, valid_text
from saif_core.errors import StorageError, UnknownNameError
from storage.database import Database, chunks, some_ids
from storage.tables import TensorsRow

MOST_BYTES = 256 << 20
SECONDS_PER_DAY = 86_400
# What safetensors and numpy both have; numpy has no bfloat16.
DTYPES = (
    *("float64", "float32", "float16", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)


class TensorStore:
    """Implements ``TensorPort`` of the records; safe from several threads and processes.

    Args:
        database: a migrated database.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def put(self, tensors: Mapping[str, np.ndarray], *, note: str = "") -> str:
        """The SHA-256 that the tensors are kept under; the same content is one entry.

        numpy has no bfloat16: hand tensors of that type over as float32.

        Args:
            note: what they are, for whoever looks into the database; that of the first put stays.

        Raises:
            StorageError: there is no tensor, one has a name or a type that cannot be stored or a
                number that is not finite, they are larger than an entry may be, or the database
                refused.
        """
        payload = _packed(tensors)
        row = {
            "sha256": hashlib.sha256(payload).hexdigest(),
            "note": valid_text(note),
            "n_bytes": len(payload),
            "put_at": int(self._clock()),
        }
        known = TensorsRow.sha256 == row["sha256"]
        # What is there already is young again, or a purge could take it before anything names it.
        renewed = update(TensorsRow).where(known).values(put_at=row["put_at"])
        insert = self._database.insert(TensorsRow).values(row | {"payload": payload})
        upsert = insert.on_conflict_do_update(
            index_elements=["sha256"], set_={"put_at": row["put_at"]}
        )
        with self._database.transaction("Storing tensors", write=True) as db:
            if not db.scalars(renewed.returning(TensorsRow.sha256)).all():
                db.execute(upsert)
        return str(row["sha256"])

    def get(self, sha256: str) -> dict[str, np.ndarray]:
        """The tensors of an entry, by name.

        Raises:
            UnknownNameError: there is no such entry.
            StorageError: its content is not what was put there, or the database refused.
        """
        query = select(TensorsRow.payload).where(TensorsRow.sha256 == valid_text(sha256))
        with self._database.transaction("Reading tensors") as db:
            payload = db.scalar(query)
            if payload is None:
                newest = select(TensorsRow.sha256).order_by(TensorsRow.put_at.desc())
                raise UnknownNameError("entry of tensors", sha256, some_ids(db, newest))
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise StorageError(
                f"The tensors {sha256!r} were to be read, but what is stored is not what was put "
                "there; restore the database from a backup, or learn them again."
            )
        return dict(load(payload))

    def has(self, sha256: str) -> bool:
        """Whether there is such an entry.

        Raises:
            StorageError: the database refused.
        """
        query = select(TensorsRow.sha256).where(TensorsRow.sha256 == valid_text(sha256))
        with self._database.transaction("Looking for tensors") as db:
            return db.scalar(query) is not None

    def purge(self, in_use: Collection[str], older_than_days: float) -> int:
        """Number of entries removed: those not in use that were last put so many days ago.

        Args:
            in_use: the SHA-256 of every entry that a session or an evaluation names, sessions that
                can still be restored included.

        Raises:
            StorageError: the database refused.
        """
        # Asked again when removing: whoever puts an entry meanwhile keeps it.
        is_old = TensorsRow.put_at < int(self._clock() - older_than_days * SECONDS_PER_DAY)
        removed = 0
        with self._database.transaction("Removing tensors", write=True) as db:
            unused = set(db.scalars(select(TensorsRow.sha256).where(is_old))) - set(in_use)
            for chunk in chunks(sorted(unused)):
                remove = delete(TensorsRow).where(TensorsRow.sha256.in_(chunk), is_old)
                removed += len(db.scalars(remove.returning(TensorsRow.sha256)).all())
        return removed


def _packed(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Tensors as safetensors bytes, the same ones for the same content.

    Raises:
        StorageError: they cannot be stored.
    """
    if not tensors:
        raise StorageError("Tensors were to be stored, but there is none; give at least one.")
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    if n_bytes > MOST_BYTES:
        raise StorageError(
            f"Tensors of {n_bytes / 1e6:,.1f} MB were to be stored, but one entry holds "
            f"{MOST_BYTES / 1e6:,.1f} MB at most; store fewer, or in a type of fewer bytes."
        )
    # safetensors reads their memory as it lies, so rows have to follow one another in it.
    return save(
        {name: np.asarray(_checked(name, tensors[name]), order="C") for name in sorted(tensors)}
    )


def _checked(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor that can be stored, in the byte order that it is stored in.

    Raises:
        StorageError: it cannot be stored.
    """
    problem = ""
    if not name or name == "__metadata__" or not is_valid_text(name):
        problem = "it has a name that cannot be stored; give it another one"
    elif tensor.dtype.name not in DTYPES:
        problem = f"its type is {tensor.dtype.name}; turn it into one of: {', '.join(DTYPES)}"
    elif not np.isfinite(tensor).all():
        problem = "it holds a number that is not finite; learn it again"
    if problem:
        raise StorageError(f"The tensor {name!r} was to be stored, but {problem}.")
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
