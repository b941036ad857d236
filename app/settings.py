"""Every SAIF_* environment variable, read in this file alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saif_core.errors import SaifError


@dataclass(frozen=True)
class Settings:
    """How this installation runs.

    Attributes:
        home: folder of everything SAIF writes (SAIF_HOME).
        database_url: SQLite or PostgreSQL (SAIF_DATABASE_URL).
        cache_mb: what the cache may hold, in MB of 2**20 bytes (SAIF_CACHE_MB).
        model: catalog name, Hugging Face name or local folder (SAIF_MODEL).
        saes: SAEs offered besides the shipped ones (SAIF_SAES, separated by commas).
        device: "auto", "cpu" or a torch device (SAIF_DEVICE).
        dtype: "auto" or a torch dtype name (SAIF_DTYPE).
        host: address that the dashboard listens on (SAIF_HOST).
        port: port that the dashboard listens on (SAIF_PORT).
        llm_url: base URL of an OpenAI-compatible endpoint that describes latents (SAIF_LLM_URL).
        llm_model: name that the endpoint knows its model by (SAIF_LLM_MODEL).
        llm_key: its key (SAIF_LLM_KEY); never printed with the settings.
    """

    home: Path
    database_url: str
    cache_mb: int
    model: str
    saes: tuple[str, ...]
    device: str
    dtype: str
    host: str
    port: int
    llm_url: str
    llm_model: str
    llm_key: str = field(repr=False)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings that the environment asks for; an empty variable counts as not set.

    Args:
        environment: read instead of the environment of this process.

    Raises:
        SaifError: SAIF_PORT is not a port number, or SAIF_CACHE_MB is not a whole number from 1.
    """
    source = os.environ if environment is None else environment

    def read(name: str, default: str) -> str:
        return source.get(name, "").strip() or default

    home = Path(read("SAIF_HOME", "~/.saif")).expanduser().resolve()
    return Settings(
        home=home,
        database_url=read("SAIF_DATABASE_URL", f"sqlite:///{home / 'saif.db'}"),
        cache_mb=_cache_mb(read("SAIF_CACHE_MB", "2048")),
        model=read("SAIF_MODEL", "smollm2-135m-instruct"),
        saes=tuple(part.strip() for part in read("SAIF_SAES", "").split(",") if part.strip()),
        device=read("SAIF_DEVICE", "auto"),
        dtype=read("SAIF_DTYPE", "auto"),
        host=read("SAIF_HOST", "127.0.0.1"),
        port=_port(read("SAIF_PORT", "8501")),
        llm_url=read("SAIF_LLM_URL", ""),
        llm_model=read("SAIF_LLM_MODEL", ""),
        llm_key=read("SAIF_LLM_KEY", ""),
    )


def export_settings(settings: Settings) -> None:
    """Make these the settings of this process, for code in it that loads them anew."""
    os.environ.update(
        SAIF_HOME=str(settings.home),
        SAIF_DATABASE_URL=settings.database_url,
        SAIF_CACHE_MB=str(settings.cache_mb),
        SAIF_MODEL=settings.model,
        SAIF_SAES=",".join(settings.saes),
        SAIF_DEVICE=settings.device,
        SAIF_DTYPE=settings.dtype,
        SAIF_HOST=settings.host,
        SAIF_PORT=str(settings.port),
        SAIF_LLM_URL=settings.llm_url,
        SAIF_LLM_MODEL=settings.llm_model,
        SAIF_LLM_KEY=settings.llm_key,
    )


def _cache_mb(text: str) -> int:
    # More digits than any disk has room for; Python reads 4,300 at most.
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) < 1:
        raise SaifError(
            f"SAIF_CACHE_MB is {text[:40]!r}, which is no size for the cache: set a whole number "
            "of megabytes, 1 or more."
        )
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise SaifError(f"SAIF_PORT is {text!r}, which is no port: set a number from 1 to 65535.")
    return int(text)
