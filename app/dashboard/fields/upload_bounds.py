"""What may be uploaded, said on the pages and kept by the server alike."""

from collections.abc import Sequence
from typing import Any

from saif_core.errors import CorpusError

# The server's own bound, ``server.maxUploadSize`` of .streamlit/config.toml.
MOST_UPLOAD_MB = 20
MOST_FILES, MOST_TOGETHER_MB = 20, 200
BOUNDS = f"At most {MOST_FILES} files of {MOST_UPLOAD_MB} MB each, {MOST_TOGETHER_MB} MB together."


def check_files(files: Sequence[Any]) -> None:
    """Refuse more files, or larger ones together, than are taken at once.

    Raises:
        CorpusError: they are.
    """
    size = sum(file.size for file in files) / 2**20
    if len(files) > MOST_FILES or size > MOST_TOGETHER_MB:
        raise CorpusError(
            f"{len(files)} files with {size:,.1f} MB were given, but at most {MOST_FILES} files "
            f"with {MOST_TOGETHER_MB} MB together are taken; read larger text with 'saif index'."
        )
