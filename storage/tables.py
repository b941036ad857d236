"""Rows as the database holds them; nothing outside this package sees one."""

from sqlalchemy import JSON, Index, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Root of all rows."""


class SessionRow(Base):
    """A steering session: its record as JSON, with the columns that lists and links need."""

    __tablename__ = "steering_session"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    instruction: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    sae: Mapped[str] = mapped_column(Text)
    search_text: Mapped[str] = mapped_column(Text)
    n_prompts: Mapped[int]
    share_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    deleted_at: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[str] = mapped_column(String(32))
    updated_at: Mapped[str] = mapped_column(String(32), index=True)
    record: Mapped[dict[str, object]] = mapped_column(JSON)


class JobRow(Base):
    """State of a job, and its result once it is done."""

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[str] = mapped_column(String(32), index=True)
    heartbeat_at: Mapped[str] = mapped_column(String(32))
    record: Mapped[dict[str, object]] = mapped_column(JSON)


class CachedActivationsRow(Base):
    """What the engine computed, under the hash of what it was computed from."""

    __tablename__ = "activation_cache"
    __table_args__ = (Index("ix_activation_cache_used_at", "used_at"),)

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    n_bytes: Mapped[int]
    used_at: Mapped[int]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
