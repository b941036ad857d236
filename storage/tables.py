"""The tables, as SQLAlchemy rows; ``migrations/`` makes them, and a test compares the two."""

from sqlalchemy import BigInteger, Float, Index, Integer, LargeBinary, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Root of the rows; holds the metadata."""


class ActivationRow(Base):
    """A payload of the engine's cache; ``used_at`` is in seconds since 1970."""

    __tablename__ = "activations"
    # Covers both the total size and the order of eviction, so neither reads a payload.
    __table_args__ = (Index("ix_activations_used_at_n_bytes", "used_at", "n_bytes"),)

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    used_at: Mapped[int] = mapped_column(BigInteger)
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    payload: Mapped[bytes] = mapped_column(LargeBinary)


class JobRow(Base):
    """A job; ``number`` keeps the order of creation, as times are whole seconds."""

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
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
