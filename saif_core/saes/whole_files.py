"""Files and folders that are there whole or not at all, whenever a process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".part"


def replace_file(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old text or the new one."""
    part = path.with_name(path.name + _UNFINISHED)
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``path`` at the end of the block.

    What an error or a kill leaves behind is never found under the folder's own name, and goes when
    the folder is written next.
    """
    part = path.with_name(path.name + _UNFINISHED)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(path, ignore_errors=True)
    os.replace(part, path)
