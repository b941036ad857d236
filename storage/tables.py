"""The tables, as SQLAlchemy rows; ``migrations/`` makes them, and a test compares the two."""

from sqlalchemy import BigInteger, Boolean, Float, Index, Integer, LargeBinary, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite's own row number, which needs no index, must be called INTEGER.
NUMBER = BigInteger().with_variant(Integer, "sqlite")


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


class LatentIndexRow(Base):
    """A corpus read through one SAE, as ``LatentIndex`` of the records has it.

    Attributes:
        number: first half of the ids of its contexts and lists.
        density: tokens on which each latent fires among the listed contexts, int64; None before
            the first checkpoint.
    """

    __tablename__ = "latent_indexes"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    model_sha256: Mapped[str] = mapped_column(Text)
    sae_sha256: Mapped[str] = mapped_column(Text)
    d_sae: Mapped[int] = mapped_column(Integer)
    hook_point: Mapped[str] = mapped_column(Text)
    n_contexts: Mapped[int] = mapped_column(BigInteger)
    n_tokens: Mapped[int] = mapped_column(BigInteger)
    n_nonzero: Mapped[int] = mapped_column(BigInteger)
    n_listed: Mapped[int] = mapped_column(BigInteger)
    finished: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[str] = mapped_column(Text)
    density: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)


class CorpusContextRow(Base):
    """A context of a corpus: its tokens (uint32) and their packed latent activations."""

    __tablename__ = "corpus_contexts"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    document: Mapped[str] = mapped_column(Text)
    token_ids: Mapped[bytes] = mapped_column(LargeBinary)
    activations: Mapped[bytes] = mapped_column(LargeBinary)


class LatentListRow(Base):
    """The largest activations of some neighbouring latents of a corpus."""

    __tablename__ = "latent_lists"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    lists: Mapped[bytes] = mapped_column(LargeBinary)


class JobRow(Base):
    """A job; ``number`` keeps the order of creation, as times are whole seconds."""

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
