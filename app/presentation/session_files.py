"""Steering sessions as JSON files: written for export, checked before anything is imported.

With a session go the tensors that its arms read, such as steering vectors, so that it opens on
another installation. Files of earlier versions are read.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, new_id, to_json, utc_now
from saif_core.records.older import PutVector, upgrade_session
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession

if TYPE_CHECKING:
    from storage.tensor_store import TensorStore

FORMAT = "saif-session"
MAX_SESSION_BYTES, MAX_TENSOR_BYTES, MAX_TENSORS = 8 * 2**20, 16 * 2**20, 64
# In base64 tensors take a third more.
MAX_BYTES = 30 * 2**20
# What may be a tensor in base64; anything else may take many times its size once it is read.
_LONG_RUN = re.compile(rb"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/=]{1024,}")


def export_session(session: SteeringSession, tensors: "TensorStore | None" = None) -> str:
    """The session as JSON text; its share link is left out, as it would let the reader in.

    Args:
        session: what to write.
        tensors: where the tensors of its arms are kept; a session without any needs none.

    Raises:
        StorageError: the session holds a number that JSON has no way to write, its tensors are
            too large for a file, or they are not kept here.
    """
    try:
        data = to_json(replace(session, share_id=None))
    except ValueError as error:
        raise StorageError(
            f"Session {session.name!r} was to be exported, but it holds a number that is not "
            "finite; generate its texts again and save it anew."
        ) from error
    document = {"format": FORMAT, "schema_version": SESSION_SCHEMA_VERSION, "session": data}
    if named := _named_tensors(session):
        document["tensors"] = _written_tensors(session, named, tensors)
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)


def import_session(
    data: bytes, *, filename: str, tensors: "TensorStore | None" = None
) -> SteeringSession:
    """The session in an exported file, as a new session: own id, no share link.

    Args:
        data: the file as it was read, UTF-8.
        filename: what the file is called, for messages only.
        tensors: where the tensors of its arms are to be kept; a session without any needs none.

    Raises:
        StorageError: the file is too large, no JSON, no session, or of an unknown version; or its
            tensors are missing, damaged or too large.
    """
    n_long = sum(map(len, _LONG_RUN.findall(data))) if len(data) <= MAX_BYTES else 0
    _check_size(len(data) - n_long, filename)
    document = _read_document(data, filename)
    written = _tensor_texts(document, filename)
    _check_size(len(data) - sum(map(len, written.values())), filename)
    carried = {sha256: _decoded(sha256, text, filename) for sha256, text in written.items()}
    session = _read_session(document, filename, tensors)
    _keep_tensors(session, carried, filename, tensors)
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
    if type(version) is not int or not 1 <= version <= SESSION_SCHEMA_VERSION:
        raise StorageError(
            f"File {filename!r} has session version {_short(repr(version))}, but this SAIF reads "
            f"versions 1 to {SESSION_SCHEMA_VERSION}; import it with the SAIF version that wrote "
            "it."
        )
    if not isinstance(document.get("session"), dict):
        raise StorageError(
            f'File {filename!r} has no object under "session"; choose a file that SAIF exported.'
        )
    return document


def _read_session(
    document: dict[str, Any], filename: str, tensors: "TensorStore | None"
) -> SteeringSession:
    found = document["session"]
    try:
        # Records replace half a surrogate pair; in a file it is damage.
        json.dumps(found, ensure_ascii=False).encode()
        if document["schema_version"] < SESSION_SCHEMA_VERSION:
            found = upgrade_session(found, _vector_keeper(filename, tensors))
        return from_json(SteeringSession, found)
    except (ValueError, OverflowError, RecursionError) as error:
        raise StorageError(
            f"File {filename!r} does not hold a complete session ({_short(error)}); export the "
            "session again and choose that file."
        ) from error


def _vector_keeper(filename: str, tensors: "TensorStore | None") -> PutVector:
    """What keeps the vectors of a file of schema 1, which holds them number by number."""
    kept: dict[tuple[float, ...], str] = {}

    def keep(vector: Sequence[float]) -> str:
        key = tuple(vector)
        if key not in kept:
            if len(kept) == MAX_TENSORS:
                raise StorageError(
                    f"File {filename!r} holds more than {MAX_TENSORS} vectors, the most that a "
                    "session file has; choose a file that SAIF exported."
                )
            kept[key] = _store_for(filename, tensors).put_vector(
                vector, note="of an imported session"
            )
        return kept[key]

    return keep


def _named_tensors(session: SteeringSession) -> list[str]:
    """The hashes of all tensors that arms of the session read, each once."""
    recipes = [session.recipe, session.result.recipe if session.result else None]
    edits = (
        edit
        for recipe in recipes
        if recipe is not None
        for arm in recipe.request.arms
        for edit in arm.edits
    )
    return list(dict.fromkeys(edit.tensors for edit in edits if edit.tensors))


def _written_tensors(
    session: SteeringSession, named: list[str], tensors: "TensorStore | None"
) -> dict[str, str]:
    if tensors is None:
        raise StorageError(
            f"Session {session.name!r} was to be exported, but its arms read tensors, and no store "
            "was given to take them from; export it from the installation that holds them."
        )
    payloads = {sha256: tensors.payload(sha256) for sha256 in named[: MAX_TENSORS + 1]}
    n_bytes = sum(map(len, payloads.values()))
    if len(payloads) > MAX_TENSORS or n_bytes > MAX_TENSOR_BYTES:
        raise StorageError(
            f"Session {session.name!r} was to be exported, but its arms read {len(named)} entries "
            f"of tensors with {n_bytes / 2**20:.1f} MiB or more, and a file holds {MAX_TENSORS} "
            f"with {MAX_TENSOR_BYTES // 2**20} MiB at most; leave out some arms."
        )
    return {sha256: base64.b64encode(payload).decode() for sha256, payload in payloads.items()}


def _check_size(n_bytes: int, filename: str) -> None:
    """Refuse a file that is too large, its tensors not counted."""
    if n_bytes > MAX_SESSION_BYTES:
        raise StorageError(
            f"File {filename!r} is {n_bytes / 2**20:.1f} MiB, but a session file has at most "
            f"{MAX_SESSION_BYTES // 2**20} MiB, and its tensors {MAX_TENSOR_BYTES // 2**20} MiB; "
            "choose a file that SAIF exported."
        )


def _tensor_texts(document: dict[str, Any], filename: str) -> dict[str, str]:
    """The tensors that a file carries, in base64 under their hash."""
    found = document.get("tensors", {})
    if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
        raise StorageError(
            f'File {filename!r} has something else than tensors under "tensors"; choose a file '
            "that SAIF exported."
        )
    n_bytes = sum(map(len, found.values())) * 3 // 4
    if len(found) > MAX_TENSORS or n_bytes > MAX_TENSOR_BYTES:
        raise StorageError(
            f"File {filename!r} carries {len(found)} entries of tensors with "
            f"{n_bytes / 2**20:.1f} MiB, but a session file has at most {MAX_TENSORS} with "
            f"{MAX_TENSOR_BYTES // 2**20} MiB; choose a file that SAIF exported."
        )
    return found


def _decoded(sha256: str, text: str, filename: str) -> bytes:
    try:
        payload = base64.b64decode(text, validate=True)
    except ValueError:
        payload = b""
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise StorageError(
            f"File {filename!r} carries the tensors {_short(sha256, 12)!r}, but they are not what "
            "was exported; export the session again and choose that file."
        )
    return payload


def _keep_tensors(
    session: SteeringSession,
    carried: dict[str, bytes],
    filename: str,
    tensors: "TensorStore | None",
) -> None:
    """Keep what the session's arms read; what the file carries besides is left."""
    for sha256 in _named_tensors(session):
        kept = _store_for(filename, tensors)
        if sha256 in carried:
            kept.put_payload(carried[sha256], note="of an imported session")
        elif not kept.has(sha256):
            raise StorageError(
                f"File {filename!r} holds a session whose arms read the tensors "
                f"{_short(sha256, 12)!r}, but not these tensors; export the session again and "
                "choose that file."
            )


def _store_for(filename: str, tensors: "TensorStore | None") -> "TensorStore":
    if tensors is None:
        raise StorageError(
            f"File {filename!r} holds a session whose arms read tensors, but no store was given to "
            "keep them in; import it into an installation of SAIF."
        )
    return tensors


def _short(error: object, limit: int = 160) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"
