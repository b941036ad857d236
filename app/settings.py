"""Every SAIF_* environment variable, read in this file alone."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saif_core.errors import SaifError

# GNU's OpenMP counts turns of a loop, LLVM's milliseconds.
_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@dataclass(frozen=True)
class Settings:
    """How this installation runs; ``SETTINGS`` says what each field is and where it comes from."""

    home: Path
    database_url: str
    cache_mb: int
    model: str
    saes: tuple[str, ...]
    plugins: tuple[Path, ...]
    device: str
    dtype: str
    host: str
    port: int
    llm_url: str
    llm_model: str
    llm_key: str = field(repr=False)  # never printed with the others


@dataclass(frozen=True)
class Setting:
    """One environment variable.

    Attributes:
        name: its field of ``Settings``.
        default: what an unset or empty variable stands for; {home} is that of SAIF_HOME.
        help: what it decides, for people; Markdown.
        read: the value that a text stands for.
    """

    name: str
    default: str
    help: str
    read: Callable[[str], Any] = str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"SAIF_{self.name.upper()}"

    @property
    def default_words(self) -> str:
        """The default as documents write it."""
        return f"`{self.default.format(home='<SAIF_HOME>')}`" if self.default else "none"


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings that the environment asks for; an empty variable counts as not set.

    Args:
        environment: read instead of the environment of this process.

    Raises:
        SaifError: SAIF_PORT is not a port number, or SAIF_CACHE_MB is not a whole number from 1.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for one in SETTINGS:
        default = one.default.format(home=_url_part(values.get("home", "")))
        values[one.name] = one.read(source.get(one.variable, "").strip() or default)
    return Settings(**values)


def export_settings(settings: Settings) -> None:
    """Make these the settings of this process, for code in it that loads them anew."""
    for one in SETTINGS:
        value = getattr(settings, one.name)
        os.environ[one.variable] = (
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        )


def be_courteous() -> None:
    """Have the model's threads wait for one another without holding on to a core.

    OpenMP's threads spin while they wait, so on a machine with other work, be it a browser, they
    keep each other from running. Only libraries that are loaded later take this up, and whoever set
    one of these variables already knows better. ``benchmarks/neighbour.py`` measures it.
    """
    if not any(os.environ.get(name) for name in ("OMP_WAIT_POLICY", *_WAITING)):
        os.environ.update(_WAITING)


def _folder(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(_folder(part) for part in _listed(text))


def _url_part(path: object) -> str:
    """A folder in a URL; what else a path may hold means nothing there."""
    return str(path).replace("%", "%25").replace("?", "%3F")


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


SETTINGS = (
    Setting(
        "home",
        "~/.saif",
        "folder of everything SAIF writes: fetched models, the database",
        _folder,
    ),
    Setting(
        "database_url",
        "sqlite:///{home}/saif.db",
        "sessions, jobs and the cache; SQLite or PostgreSQL",
    ),
    Setting(
        "cache_mb",
        "2048",
        "how many megabytes (of 2**20 bytes) of activations the cache keeps; those used least "
        "recently go first",
        _cache_mb,
    ),
    Setting("model", "smollm2-135m-instruct", "the default model, a Hugging Face id, or a folder"),
    Setting(
        "saes",
        "",
        "more SAEs, separated by commas: `release:sae_id` of sae-lens, or a folder",
        _listed,
    ),
    Setting(
        "plugins",
        "",
        "folders of plug-ins of your own, separated by commas; each may hold the folders "
        "`selectors`, `sources`, `methods`, `evaluators` and `target_rules`",
        _folders,
    ),
    Setting(
        "device", "auto", "`cpu`, `cuda`, `cuda:1` or `mps`; `auto` takes a GPU if there is one"
    ),
    Setting(
        "dtype",
        "auto",
        "`float32`, `bfloat16`, `float16`, or `4bit` (needs `pip install bitsandbytes`); `auto` is "
        "float32 on a CPU, else bfloat16",
    ),
    Setting("host", "127.0.0.1", "address that the dashboard listens on"),
    Setting("port", "8501", "port that the dashboard listens on", _port),
    Setting(
        "llm_url",
        "",
        "an OpenAI-compatible endpoint that describes latents and judges texts, such as "
        "`http://127.0.0.1:11434/v1`",
    ),
    Setting("llm_model", "", "the model that it is asked for"),
    Setting("llm_key", "", "its key"),
)
