"""Learned tensors by content: steering vectors, low-rank maps and what else a text came from.

An entry is some named tensors as safetensors bytes, under the SHA-256 of these bytes, so whoever
holds the hash gets exactly what was put there. Numbers that can be computed again belong into the
cache; an entry here goes only when nothing names it any more.
"""

import hashlib
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import is_valid_text, valid_text
from saif_core.errors import StorageError, UnknownNameError
from storage.database import PAUSE_SECONDS, Database, some_ids
from storage.tables import EvaluationRow, SessionRow, TensorsRow

MOST_BYTES = 256 << 20
REMOVED_AT_ONCE = 16
SECONDS_PER_DAY = 86_400
# What safetensors and numpy both have; numpy has no bfloat16.
DTYPES = (
    *("float64", "float32", "float16", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)
# An edit with tensors, as JSON has it.
NAMED = re.compile(r'"tensors": "([0-9a-f]{64})"')
RECORDS_AT_ONCE = 20


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
        with self._database.transaction("Storing tensors", write=True) as db:
            return self._write(db, payload, note)

    def put_vector(
        self, vector: Sequence[float], *, note: str = "", db: OrmSession | None = None
    ) -> str:
        """The SHA-256 that a steering vector is kept under, as float32.

        Args:
            note: see ``put``.
            db: a transaction under way that writes; None begins one.

        Raises:
            StorageError: as for ``put``.
        """
        payload = _packed({"vector": np.asarray(vector, dtype=np.float32)})
        if db is not None:
            return self._write(db, payload, note)
        with self._database.transaction("Storing a vector", write=True) as own:
            return self._write(own, payload, note)

    def put_payload(self, payload: bytes, *, note: str = "") -> str:
        """The SHA-256 that safetensors bytes of another store are kept under, their own hash.

        Raises:
            StorageError: they are not what a store holds, or as for ``put``.
        """
        try:
            packed = _packed(load(payload))
        except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise _foreign() from error
        if packed != payload:
            raise _foreign()
        with self._database.transaction("Storing tensors", write=True) as db:
            return self._write(db, payload, note)

    def get(self, sha256: str) -> dict[str, np.ndarray]:
        """The tensors of an entry, by name.

        Raises:
            UnknownNameError: there is no such entry.
            StorageError: its content is not what was put there, or the database refused.
        """
        return dict(load(self.payload(sha256)))

    def payload(self, sha256: str) -> bytes:
        """An entry as its safetensors bytes, which ``put_payload`` of another store takes.

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
        return payload

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
        with self._database.transaction("Looking for tensors") as db:
            unused = sorted(set(db.scalars(select(TensorsRow.sha256).where(is_old))) - set(in_use))
        # Some at a time, as they may be large, and others want to write too.
        for start in range(0, len(unused), REMOVED_AT_ONCE):
            some = TensorsRow.sha256.in_(unused[start : start + REMOVED_AT_ONCE])
            remove = delete(TensorsRow).where(some, is_old).returning(TensorsRow.sha256)
            with self._database.transaction("Removing tensors", write=True) as db:
                removed += len(db.scalars(remove).all())
            time.sleep(PAUSE_SECONDS)
        return removed

    def purge_unnamed(self, older_than_days: float) -> int:
        """Number of entries removed: those that no session and no evaluation names any more.

        Sessions that can still be restored count.

        Raises:
            StorageError: the database refused.
        """
        old = TensorsRow.put_at < int(self._clock() - older_than_days * SECONDS_PER_DAY)
        with self._database.transaction("Looking for old tensors") as db:
            # Usually there is none, and then no record need be read.
            if db.scalar(select(TensorsRow.sha256).where(old).limit(1)) is None:
                return 0
        in_use = self.named_in(SessionRow.record) | self.named_in(EvaluationRow.record)
        return self.purge(in_use, older_than_days)

    def named_in(self, records: InstrumentedAttribute[str]) -> set[str]:
        """The SHA-256 of every entry that the edits in a column of JSON records name.

        Raises:
            StorageError: the database refused.
        """
        query = select(records).where(self._names_tensors(records))
        found: set[str] = set()
        with self._database.transaction("Looking for tensors in use") as db:
            # Only some at a time, as a record may be large.
            for record in db.scalars(query.execution_options(yield_per=RECORDS_AT_ONCE)):
                found.update(NAMED.findall(record))
        return found

    def _names_tensors(self, records: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        """Whether a record has an edit with tensors, which few have."""
        if self._database.is_sqlite:
            return records.op("GLOB", is_comparison=True)('*"tensors": "[0-9a-f]*')
        return records.regexp_match('"tensors": "[0-9a-f]')

    def _write(self, db: OrmSession, payload: bytes, note: str) -> str:
        sha256 = hashlib.sha256(payload).hexdigest()
        put_at = int(self._clock())
        # What is there already is young again, or a purge could take it before anything names it.
        renewed = update(TensorsRow).where(TensorsRow.sha256 == sha256).values(put_at=put_at)
        insert = self._database.insert(TensorsRow).values(
            sha256=sha256,
            note=valid_text(note),
            n_bytes=len(payload),
            put_at=put_at,
            payload=payload,
        )
        upsert = insert.on_conflict_do_update(index_elements=["sha256"], set_={"put_at": put_at})
        if not db.scalars(renewed.returning(TensorsRow.sha256)).all():
            db.execute(upsert)
        return sha256


def _foreign() -> StorageError:
    return StorageError(
        "Tensors were to be stored as they are, but they are not as a store of SAIF writes them; "
        "export them again."
    )


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
