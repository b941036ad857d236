"""Steering sessions as JSON files: written for export, checked before anything is imported."""

import json
import re
from dataclasses import replace
from typing import Any, NoReturn

from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, new_id, to_json, utc_now
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession

FORMAT = "saif-session"
MAX_BYTES = 8 * 2**20


def export_session(session: SteeringSession) -> str:
    """The session as JSON text; its share link is left out, as it would let the reader in.

    Raises:
        StorageError: the session holds a number that JSON has no way to write.
    """
    try:
        data = to_json(replace(session, share_id=None))
    except ValueError as error:
        raise StorageError(
            f"Session {session.name!r} was to be exported, but it holds a number that is not "
            "finite; generate its texts again and save it anew."
        ) from error
    document = {"format": FORMAT, "schema_version": SESSION_SCHEMA_VERSION, "session": data}
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)


def import_session(data: bytes, *, filename: str) -> SteeringSession:
    """The session in an exported file, as a new session: own id, no share link.

    Args:
        data: the file as it was read, UTF-8.
        filename: what the file is called, for messages only.

    Raises:
        StorageError: the file is too large, no JSON, no session, or of an unknown version.
    """
    if len(data) > MAX_BYTES:
        raise StorageError(
            f"File {filename!r} is {len(data) / 2**20:.1f} MiB, but a session file has at most "
            f"{MAX_BYTES // 2**20} MiB; choose a file that SAIF exported."
        )
    document = _read_document(data, filename)
    try:
        session = from_json(SteeringSession, document["session"])
        # Reading lets 1e999 (infinity) and half a surrogate pair pass; writing refuses both.
        json.dumps(to_json(session), ensure_ascii=False).encode()
    except (ValueError, OverflowError, RecursionError) as error:
        raise StorageError(
            f"File {filename!r} does not hold a complete session ({_short(error)}); export the "
            "session again and choose that file."
        ) from error
    now = utc_now()
    return replace(session, id=new_id(), share_id=None, created_at=now, updated_at=now)


def export_filename(session: SteeringSession) -> str:
    """A safe file name made from the session's name, ending in ``.saif.json``."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", session.name).strip("-").lower()[:60].strip("-")
    return f"{stem or 'session'}.saif.json"


def _read_document(data: bytes, filename: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        document = json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"File {filename!r} could not be read as JSON ({_short(error)}); choose a file that "
            "SAIF exported."
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StorageError(
            f"File {filename!r} is JSON but not a SAIF session (it lacks the mark "
            f'"format": "{FORMAT}"); choose a file that SAIF exported.'
        )
    version = document.get("schema_version")
    if type(version) is not int or version != SESSION_SCHEMA_VERSION:
        raise StorageError(
            f"File {filename!r} has session version {_short(repr(version))}, but this SAIF reads "
            f"version {SESSION_SCHEMA_VERSION}; import it with the SAIF version that wrote it."
        )
    if not isinstance(document.get("session"), dict):
        raise StorageError(
            f'File {filename!r} has no object under "session"; choose a file that SAIF exported.'
        )
    return document


def _short(error: object, limit: int = 160) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"
