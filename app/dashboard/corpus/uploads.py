"""Files of the corpus page: uploads in the home folder."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Protocol
from uuid import uuid4

from app.dashboard.fields.upload_bounds import MOST_UPLOAD_MB
from app.settings import load_settings
from saif_core.errors import CorpusError
from saif_core.records.corpus import LatentIndex

KINDS = ("txt", "md", "jsonl", "parquet")
MAX_UPLOAD_MB = MOST_UPLOAD_MB
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Upload(Protocol):
    """A file in the server's memory, as Streamlit hands it over."""

    name: str

    def getbuffer(self) -> memoryview:
        """The bytes."""


def save_uploads(uploads: Sequence[Upload]) -> Path:
    """Folder that holds the files, named by their contents: the same files share one folder.

    Raises:
        CorpusError: a file is of a kind that is not read.
    """
    from saif_core.inputs.documents import find_files, hash_files

    home = _uploads_home()
    folder = home / f"new-{uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        for number, upload in enumerate(uploads, start=1):
            (folder / _safe_name(number, upload.name)).write_bytes(upload.getbuffer())
        kept = home / hash_files(find_files([folder]))
        if not kept.is_dir():
            folder.rename(kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return kept


def uploads_of(index: LatentIndex) -> Path | None:
    """Folder of the files that an index was read from, if they were uploaded here."""
    if not _SHA256.fullmatch(index.source_sha256):
        return None
    folder = _uploads_home() / index.source_sha256
    return folder if folder.is_dir() else None


def forget_uploads(index: LatentIndex, others: Sequence[LatentIndex]) -> None:
    """Remove the files of a deleted index, unless another index is read from them."""
    folder = uploads_of(index)
    if folder is not None and all(o.source_sha256 != index.source_sha256 for o in others):
        shutil.rmtree(folder, ignore_errors=True)


def _uploads_home() -> Path:
    return load_settings().home / "uploads"


def _safe_name(number: int, name: str) -> str:
    """A name that sorts in the order of upload and stays in its folder."""
    path = PurePath(name)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise CorpusError(
            f"{path.name[:60]!r} is of a kind that is not read; give files that end in "
            f"{', '.join(KINDS)}."
        )
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem)[:40].strip("-")
    return f"{number:03d}-{stem or 'text'}.{kind}"
