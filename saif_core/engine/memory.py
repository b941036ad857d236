"""What to say when memory runs out, on a GPU or not."""

import os
import re

import torch

from saif_core.errors import BudgetError

_ASKED_GPU = re.compile(r"Tried to allocate ([\d.]+ [KMG]iB)")
_ASKED_CPU = re.compile(r"you tried to allocate (\d+) bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on the CPU, torch has no class of its own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def explain_out_of_memory(error: BaseException, title: str, device: str) -> BaseException:
    """One sentence with what was needed and free, or the error itself if it is another one.

    Args:
        error: what was raised.
        title: what was being done.
        device: the torch device it was done on.
    """
    if not is_out_of_memory(error):
        return error
    text = str(error)
    asked = "more memory than there is"
    if match := _ASKED_GPU.search(text):
        asked = f"{match[1]} more"
    elif match := _ASKED_CPU.search(text):
        asked = f"{_mebibytes(int(match[1]))} more"
    free = free_bytes(device)
    place = device if free is None else f"{device}, where {_mebibytes(free)} are free"
    explained = BudgetError(
        f"{title} needed {asked} on {place}; ask for fewer prompts, pairs or tokens, or use a "
        "smaller model."
    )
    explained.__cause__ = error
    return explained


def free_bytes(device: str) -> int | None:
    """Memory that is free on a device, in bytes; None where the system does not tell."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    # macOS has no name for it, Windows no sysconf at all.
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
