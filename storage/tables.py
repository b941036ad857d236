"""The tables, as SQLAlchemy rows; ``migrations/`` makes them, and a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

# SQLite's own row number, which needs no index, must be called INTEGER.
NUMBER = BigInteger().with_variant(Integer, "sqlite")
# Ids of contexts and latents: the number of their index, then their own, in 64 bits.
OWN_BITS = 32


class Base(DeclarativeBase):
    """Root of the rows; holds the metadata."""


class ActivationRow(Base):
    """A payload of the engine's cache.

    Rows are stored in the order of ``id``: in the random order of keys, pages would stay half
    empty.

    Attributes:
        used_at: in seconds since 1970.
        n_bytes: size of the whole payload.
        head: its first bytes; the others are in `ActivationTailRow`.
    """

    __tablename__ = "activations"
    # Covers both the total size and the order of eviction, so neither reads a payload.
    __table_args__ = (Index("ix_activations_used_at_n_bytes", "used_at", "n_bytes"),)

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    key: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    used_at: Mapped[int] = mapped_column(BigInteger)
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    head: Mapped[bytes] = mapped_column(LargeBinary)


class ActivationTailRow(Base):
    """A further piece of a payload: several rows must fit a page, or much of it stays empty."""

    __tablename__ = "activation_tails"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    piece: Mapped[bytes] = mapped_column(LargeBinary)


class TensorsRow(Base):
    """Some learned tensors as safetensors bytes, under the hash of these bytes.

    Attributes:
        put_at: when they were last put, in seconds since 1970.
    """

    __tablename__ = "tensors"

    sha256: Mapped[str] = mapped_column(Text, primary_key=True)
    note: Mapped[str] = mapped_column(Text)
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    put_at: Mapped[int] = mapped_column(BigInteger)
    payload: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class LatentIndexRow(Base):
    """A corpus read through one SAE, as ``LatentIndex`` of the records has it.

    Attributes:
        number: first half of the ids of its contexts and latents.
        density: tokens on which each latent fires in the first ``n_listed`` contexts, int64; None
            before the first checkpoint.
        pending_at: when someone last worked at an index that nobody may see, as it is being
            imported or deleted, in seconds since 1970; None for all others.
    """

    __tablename__ = "latent_indexes"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    model_sha256: Mapped[str] = mapped_column(Text)
    sae_sha256: Mapped[str] = mapped_column(Text)
    d_sae: Mapped[int] = mapped_column(Integer)
    hook_point: Mapped[str] = mapped_column(Text)
    sae_id: Mapped[str] = mapped_column(Text, server_default="")
    source_sha256: Mapped[str] = mapped_column(Text, server_default="")
    n_contexts: Mapped[int] = mapped_column(BigInteger)
    n_tokens: Mapped[int] = mapped_column(BigInteger)
    n_nonzero: Mapped[int] = mapped_column(BigInteger)
    n_listed: Mapped[int] = mapped_column(BigInteger)
    finished: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[str] = mapped_column(Text)
    density: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    pending_at: Mapped[int | None] = mapped_column(BigInteger)


class CorpusContextRow(Base):
    """A context of a corpus: its tokens (uint32) and their packed latent activations."""

    __tablename__ = "corpus_contexts"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    document: Mapped[str] = mapped_column(Text)
    token_ids: Mapped[bytes] = mapped_column(LargeBinary)
    activations: Mapped[bytes] = mapped_column(LargeBinary)


class LatentRow(Base):
    """What lists of latents are filtered and sorted by; as short as can be, as all are read."""

    __tablename__ = "latents"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    n_fired: Mapped[int] = mapped_column(BigInteger)
    maximum: Mapped[float] = mapped_column(Float(53))
    s_in: Mapped[float | None] = mapped_column(Float(53))
    s_out: Mapped[float | None] = mapped_column(Float(53))


class LatentProfileRow(Base):
    """A latent's packed profile, and the tokens it promotes as text."""

    __tablename__ = "latent_profiles"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    promotes: Mapped[str] = mapped_column(Text)
    profile: Mapped[bytes] = mapped_column(LargeBinary)


class LatentTextRow(Base):
    """The words by which a latent is found, folded, with a space between any two.

    The migration gives every database a full-text index over them, ``latent_search``, which the
    database keeps up to date by itself: on SQLite a table, on PostgreSQL a column of this one.
    """

    __tablename__ = "latent_texts"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    label: Mapped[str] = mapped_column(Text)
    promotes: Mapped[str] = mapped_column(Text)
    fires_on: Mapped[str] = mapped_column(Text)
    examples: Mapped[str] = mapped_column(Text)


class LatentNoteRow(Base):
    """What someone says of a latent; ``number`` keeps the order, as times are whole seconds."""

    __tablename__ = "latent_notes"
    __table_args__ = (Index("ix_latent_notes_sae_sha256_latent", "sae_sha256", "latent"),)

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    sae_sha256: Mapped[str] = mapped_column(Text)
    latent: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(Text)


class LatentDescriptionRow(Base):
    """A description of a latent that a method made; ``evidence`` is JSON in ASCII."""

    __tablename__ = "latent_descriptions"
    __table_args__ = (Index("ix_latent_descriptions_sae_sha256_latent", "sae_sha256", "latent"),)

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    sae_sha256: Mapped[str] = mapped_column(Text)
    latent: Mapped[int] = mapped_column(BigInteger)
    method: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    prompt: Mapped[str] = mapped_column(Text)
    evidence: Mapped[str] = mapped_column(Text)
    input_score: Mapped[float | None] = mapped_column(Float(53))
    output_score: Mapped[float | None] = mapped_column(Float(53))
    created_at: Mapped[str] = mapped_column(Text)


class JobRow(Base):
    """A job; ``number`` keeps the order of creation, as times are whole seconds.

    Attributes:
        process: name of the process that runs it, see ``processes``; empty where it has none.
    """

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, index=True)
    done: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)
    message: Mapped[str] = mapped_column(Text)
    error: Mapped[str] = mapped_column(Text)
    result: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(Text)
    heartbeat_at: Mapped[str] = mapped_column(Text)
    process: Mapped[str] = mapped_column(Text, server_default="")


class SessionRow(Base):
    """A steering session: what lists and searches need, and the record itself as JSON.

    Attributes:
        share_id: the only place that says whether it is shared; the record's own field is unused.
        saved_seconds: seconds since 1970, finer than ``updated_at``, to order the list by.
        search_text: name, notes and instruction, folded for search.
        record: JSON in ASCII, so that any text a model writes fits any database.
    """

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    instruction: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    sae: Mapped[str] = mapped_column(Text)
    n_prompts: Mapped[int] = mapped_column(Integer)
    share_id: Mapped[str | None] = mapped_column(Text, unique=True)
    schema_version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[str] = mapped_column(Text)
    deleted_at: Mapped[str | None] = mapped_column(Text)
    saved_seconds: Mapped[float] = mapped_column(Float(53), index=True)
    search_text: Mapped[str] = mapped_column(Text)
    record: Mapped[str] = mapped_column(Text)


class EvaluationRow(Base):
    """An evaluation: what lists need, and the record itself as JSON in ASCII.

    Attributes:
        number: keeps the order of creation, as times are whole seconds.
        n: number of test contents.
        best_strict, best_useful: strict and useful share of the best SAE arm on the reporting
            half; that of evaluations of before is not known.
    """

    __tablename__ = "evaluations"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    instruction: Mapped[str] = mapped_column(Text, index=True)
    model: Mapped[str] = mapped_column(Text)
    n_cells: Mapped[int] = mapped_column(Integer)
    n: Mapped[int] = mapped_column(Integer)
    best_sae_arm: Mapped[str] = mapped_column(Text)
    best_strict: Mapped[float | None] = mapped_column(Float(53))
    best_useful: Mapped[float | None] = mapped_column(Float(53))
    created_at: Mapped[str] = mapped_column(Text)
    record: Mapped[str] = mapped_column(Text)


class EvaluationTextsRow(Base):
    """The texts of one cell of an evaluation: JSON in ASCII, compressed by zlib."""

    __tablename__ = "evaluation_texts"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    cell: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    texts: Mapped[bytes] = mapped_column(LargeBinary)


class KeptWorkRow(Base):
    """What a person was working on: JSON in ASCII, compressed by zlib.

    Attributes:
        used_at: in seconds since 1970.
    """

    __tablename__ = "kept_work"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    used_at: Mapped[int] = mapped_column(BigInteger, index=True)
    parts: Mapped[bytes] = mapped_column(LargeBinary)


def id_of(number: int, own: int) -> int:
    """Id of a context or a latent of the index with that number."""
    return number << OWN_BITS | own


def own_part(row_id: int) -> int:
    """Which context or latent of its index an id names."""
    return row_id & ((1 << OWN_BITS) - 1)


def rows_of(number: int, row_id: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Whether an id is of the index with that number."""
    return row_id.between(id_of(number, 0), id_of(number + 1, 0) - 1)
