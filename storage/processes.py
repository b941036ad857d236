"""Names of processes that tell whether one has ended, wherever that can be known.

A name says where a process runs (this boot of this machine, and the namespace that numbers its
processes), its number, and when it began, as numbers are used again. Elsewhere than on Linux there
are no names, and nothing is known to have ended.
"""

import os
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")
_SEPARATOR = "|"


def process_name() -> str:
    """The name of this process; "" where it cannot be known."""
    return _name(os.getpid())


def has_ended(name: str) -> bool:
    """Whether a process is known to have ended; False also where that cannot be known."""
    place, _, rest = name.partition(_SEPARATOR)
    number, _, began = rest.partition(_SEPARATOR)
    if not began or place != _place() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # it is somebody else's
    return _began(int(number)) not in ("", began)


@lru_cache(maxsize=4)
def _name(number: int) -> str:
    place, began = _place(), _began(number)
    return _SEPARATOR.join((place, str(number), began)) if place and began else ""


def _place() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""
    return f"{boot} {namespace}"


def _began(number: int) -> str:
    """When a process began, in the kernel's own units; "ended" for what only waits to be buried."""
    try:
        status = (_PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name of the program, in brackets, may hold anything.
    fields = status.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
