"""The file in which an index travels: its profiles, and the contexts that they point to.

The file is a zstandard frame of parts, each after its length: what it is and the index as JSON,
the density, the profiles and the contexts, with an empty part after either list.
"""

import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import zstandard
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import valid_text
from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, to_json
from saif_core.records.corpus import LatentIndex, LatentProfile, ProfileText
from saif_core.records.packing import pack_activations, unpack_profile
from storage.corpus_store import COLUMNS
from storage.database import CHUNK, chunks
from storage.tables import (
    CorpusContextRow,
    LatentIndexRow,
    LatentProfileRow,
    LatentTextRow,
    id_of,
    own_part,
    rows_of,
)

FORMAT = "SAIF latents"
VERSION = 1
LEVEL = 19
# What a file may hold when it is unpacked, in all. Indexes of real texts unpack to about twice
# their size, so what unpacks to far more was made to fill a disk.
MOST_BYTES = 512 << 20
MOST_TIMES, MOST_BESIDES = 32, 4 << 20
# One piece: the density of all latents, or whatever else.
MOST_DENSITY_BYTES = 32 << 20
MOST_PART_BYTES = 1 << 20
MOST_WINDOW_BYTES = 8 << 20


def packed_index(db: OrmSession, row: LatentIndexRow) -> bytes:
    """The file of an index.

    Raises:
        StorageError: a profile cannot be read.
    """
    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
    packed = [
        packer.compress(len(part).to_bytes(4, "little") + part) for part in _parts_of(db, row)
    ]
    return b"".join([*packed, packer.flush()])


class PackedIndex:
    """A file of unknown origin, checked while it is read, from the first part to the last.

    Attributes:
        index: finished, whatever the exported one was.
        density: as the index holds it; empty for none.
        n_bytes: of the file.

    Raises:
        StorageError: in every method, when the file is of another version, damaged or too large.
    """

    def __init__(self, data: bytes) -> None:
        self._parts = _Parts(data)
        self.n_bytes = len(data)
        self.index = _read_header(self._parts)
        self.density = self._parts.next(MOST_DENSITY_BYTES)
        if len(self.density) not in (0, 8 * self.index.d_sae):
            raise _unreadable()
        # How long the contexts must be that examples point to.
        self._ends: dict[int, int] = {}

    @property
    def n_read(self) -> int:
        """Bytes of the file that were read so far."""
        return self._parts.n_read

    def profiles(self) -> Iterator[tuple[LatentProfile, bytes, ProfileText]]:
        """Profiles, also packed, with their texts; to be read before the contexts."""
        while payload := self._parts.next():
            profile = unpack_profile(payload)
            texts = self._parts.json()
            if (
                profile.latent >= self.index.d_sae
                or not isinstance(texts, list)
                or len(texts) != 3
                or not all(isinstance(text, str) for text in texts)
            ):
                raise _unreadable()
            for example in profile.examples:
                end = max(example.position + 1, example.start + len(example.activations))
                self._ends[example.context] = max(end, self._ends.get(example.context, 0))
            yield profile, payload, ProfileText(*texts)

    def contexts(self, number: int) -> Iterator[dict[str, Any]]:
        """Rows of the index with this number for its contexts, on which nothing fires."""
        nothing = np.zeros(0, dtype=np.int64)
        while part := self._parts.next():
            ordinal, token_ids = int.from_bytes(part[:4], "little"), part[4:]
            n_tokens = len(token_ids) // 4
            try:
                document = self._parts.next().decode()
            except ValueError as error:
                raise _unreadable() from error
            needed = self._ends.pop(ordinal, n_tokens + 1)
            if len(part) % 4 or ordinal >= self.index.n_contexts or n_tokens < needed:
                raise _unreadable()
            counts = np.zeros(n_tokens, dtype=np.int64)
            activations = pack_activations(counts, nothing, nothing.astype("f4"), self.index.d_sae)
            yield {
                "id": id_of(number, ordinal),
                "document": valid_text(document),
                "token_ids": token_ids,
                "activations": activations,
            }
        if self._ends:
            raise _unreadable()
        self._parts.end()


def _parts_of(db: OrmSession, row: LatentIndexRow) -> Iterator[bytes]:
    index = LatentIndex(**{column.name: getattr(row, column.name) for column in COLUMNS})
    header = {"format": FORMAT, "version": VERSION, "index": to_json(index)}
    yield json.dumps(header).encode()
    yield row.density or b""
    profiles = (
        select(
            LatentProfileRow.profile,
            LatentProfileRow.promotes,
            LatentTextRow.fires_on,
            LatentTextRow.examples,
        )
        .join(LatentTextRow, LatentTextRow.id == LatentProfileRow.id)
        .where(rows_of(row.number, LatentProfileRow.id))
        .order_by(LatentProfileRow.id)
    )
    ordinals: set[int] = set()
    for profile, *texts in db.execute(profiles.execution_options(yield_per=CHUNK)):
        ordinals |= {example.context for example in unpack_profile(profile).examples}
        yield profile
        yield json.dumps(texts).encode()
    yield b""
    for chunk in chunks(sorted(ordinals)):
        contexts = select(
            CorpusContextRow.id, CorpusContextRow.document, CorpusContextRow.token_ids
        ).where(CorpusContextRow.id.in_([id_of(row.number, ordinal) for ordinal in chunk]))
        for row_id, document, token_ids in db.execute(contexts.order_by(CorpusContextRow.id)):
            yield own_part(row_id).to_bytes(4, "little") + token_ids
            yield document.encode()
    yield b""


class _Parts:
    """The parts of an exported file, unpacked one by one, as nobody knows who made it.

    Raises:
        StorageError: in every method, when the file is damaged or too large.
    """

    def __init__(self, data: bytes) -> None:
        unpacker = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW_BYTES)
        self._packed = io.BytesIO(data)
        self._stream = unpacker.stream_reader(self._packed)
        self._most = min(MOST_BYTES, MOST_BESIDES + MOST_TIMES * len(data))
        self._left = self._most

    @property
    def n_read(self) -> int:
        return self._packed.tell()

    def next(self, most_bytes: int = MOST_PART_BYTES) -> bytes:
        length = int.from_bytes(self._read(4), "little")
        if length > most_bytes:
            raise _unreadable()
        return self._read(length)

    def json(self) -> Any:
        try:
            return json.loads(self.next())
        except (ValueError, RecursionError) as error:
            raise _unreadable() from error

    def end(self) -> None:
        # Reading past the end also compares the checksum.
        try:
            rest = self._stream.read(1)
        except zstandard.ZstdError as error:
            raise _unreadable() from error
        if rest:
            raise _unreadable()

    def _read(self, n: int) -> bytes:
        self._left -= n
        if self._left < 0:
            raise StorageError(
                f"A file of latents was to be imported, but it unpacks to more than "
                f"{self._most >> 20} MB, which is more than one of its size may; export it anew."
            )
        try:
            found = self._stream.read(n) if n else b""
        except zstandard.ZstdError as error:
            raise _unreadable() from error
        if len(found) != n:
            raise _unreadable()
        return found


def _read_header(parts: _Parts) -> LatentIndex:
    header = parts.json()
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _unreadable()
    if header.get("version") != VERSION:
        raise StorageError(
            f"A file of latents of version {header.get('version')!r} was to be imported, but this "
            f"SAIF reads version {VERSION}; use the SAIF that exported it, or export it "
            "anew."
        )
    try:
        index = from_json(LatentIndex, header.get("index"))  # type: ignore[arg-type]
        index = replace(index, id=str(uuid.UUID(index.id)))
    except ValueError as error:
        raise _unreadable() from error
    counts = (index.n_contexts, index.n_tokens, index.n_nonzero)
    # No part of the file could hold the density of more latents than this.
    if not 1 <= index.d_sae <= MOST_DENSITY_BYTES or not all(0 <= n < 1 << 63 for n in counts):
        raise _unreadable()
    return replace(
        index,
        name=valid_text(index.name),
        model_sha256=valid_text(index.model_sha256),
        sae_sha256=valid_text(index.sae_sha256),
        hook_point=valid_text(index.hook_point),
        sae_id=valid_text(index.sae_id),
        source_sha256=valid_text(index.source_sha256),
        created_at=valid_text(index.created_at),
        n_listed=index.n_contexts,
        finished=True,
    )


def _unreadable() -> StorageError:
    return StorageError(
        "A file of latents was to be imported, but it is not a whole file that SAIF exported; "
        "download it again."
    )
