"""Published labels of latents, read from a Neuronpedia export that a person downloaded.

An export is a JSON array or JSON lines, possibly in gzip, of one record per explanation: modelId,
layer (such as "12-gemmascope-res-16k"), index, description, explanationModelName and typeName.
Nothing here reaches a network. What a file holds is untrusted.

Source: the explanation exports and the bulk data sets of neuronpedia.org.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from saif_core.characters import valid_text
from saif_core.errors import SaeMismatchError, SaifError
from saif_core.text_files import short_name

MAX_BYTES = 100_000_000
MAX_ODD_ENTRIES = 1000
MAX_TEXT = 2000
_SHOWN = 80
_GZIP = b"\x1f\x8b"


class PublishedLabel(NamedTuple):
    """What somebody wrote about a latent; ``source`` says by which model and method."""

    latent_index: int
    text: str
    source: str


class OddEntry(NamedTuple):
    """An entry that was left out; ``number`` is its line, or its place in a JSON array, from 1."""

    number: int
    problem: str


class PublishedLabels(NamedTuple):
    """Labels in the order of the file, and the entries that could not be used."""

    labels: list[PublishedLabel]
    odd: list[OddEntry]


def read_published_labels(
    data: bytes, filename: str, *, neuronpedia_id: str | None, d_sae: int
) -> PublishedLabels:
    """The labels in an export; an entry that cannot be used is left out and reported.

    Args:
        data: the file, JSON or JSON lines, possibly in gzip.
        filename: only shown.
        neuronpedia_id: of the SAE in use, from its sae-lens metadata, such as
            "gemma-2-2b/12-gemmascope-res-16k".
        d_sae: number of latents of that SAE.

    Raises:
        SaeMismatchError: the SAE has no such id, or an entry is about another SAE.
        SaifError: the file is too large or no such export, or holds no label that can be used.
    """
    source = short_name(filename)
    if not neuronpedia_id:
        raise SaeMismatchError(
            f"{source} cannot be matched with the SAE in use, which has no Neuronpedia id; add "
            "'neuronpedia_id' to the metadata in its cfg.json."
        )
    labels: list[PublishedLabel] = []
    odd: list[OddEntry] = []
    for number, entry in _entries(_unpack(data, source), source):
        if isinstance(entry, dict):
            _check_set(entry, number, source, neuronpedia_id)
        found = _label(entry, d_sae)
        if isinstance(found, PublishedLabel):
            labels.append(found)
            continue
        odd.append(OddEntry(number, found))
        if len(odd) > MAX_ODD_ENTRIES:
            raise SaifError(
                f"{source} has more than {MAX_ODD_ENTRIES:,} entries that cannot be used, the "
                f"first at {odd[0].number} ({odd[0].problem}); choose an explanation export."
            )
    if not labels:
        reason = f"entry {odd[0].number}: {odd[0].problem}" if odd else "the file is empty"
        raise SaifError(f"{source} holds no label ({reason}); choose an explanation export.")
    return PublishedLabels(labels, odd)


def _unpack(data: bytes, source: str) -> bytes:
    if data.startswith(_GZIP):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise SaifError(f"{source} is a damaged gzip file; download it again.") from error
    if len(data) > MAX_BYTES:
        raise SaifError(
            f"{source} has more than the {MAX_BYTES / 1e6:g} MB that are read; split it into "
            "smaller files."
        )
    return data.removeprefix(b"\xef\xbb\xbf")


def _entries(data: bytes, source: str) -> Iterator[tuple[int, Any]]:
    """Entries numbered from 1; a line that is not JSON comes as None."""
    if data[:1000].lstrip().startswith(b"["):
        yield from _array_entries(data, source)
        return
    for number, line in enumerate(io.BytesIO(data), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, None


def _array_entries(data: bytes, source: str) -> Iterator[tuple[int, Any]]:
    # One entry at a time: a whole export with its embeddings would take a gigabyte.
    number = 0
    try:
        text = data.decode().strip()
        decoder, position = json.JSONDecoder(), _skip_space(text, 1)
        while text[position] != "]":
            if number:
                if text[position] != ",":
                    raise ValueError
                position = _skip_space(text, position + 1)
            entry, position = decoder.raw_decode(text, position)
            position = _skip_space(text, position)
            number += 1
            yield number, entry
    except (ValueError, IndexError, RecursionError) as error:
        raise SaifError(
            f"{source} cannot be read as JSON after entry {number:,}; download it again."
        ) from error


def _skip_space(text: str, position: int) -> int:
    while text[position] in " \t\r\n":
        position += 1
    return position


def _check_set(entry: dict[str, Any], number: int, source: str, neuronpedia_id: str) -> None:
    found = f"{entry.get('modelId')}/{entry.get('layer')}"
    if "modelId" in entry and "layer" in entry and found != neuronpedia_id:
        raise SaeMismatchError(
            f"{source} holds labels for {_line(found)[:_SHOWN]!r} (entry {number:,}), but the SAE "
            f"in use is {neuronpedia_id!r}; choose the export of that SAE."
        )


def _label(entry: Any, d_sae: int) -> PublishedLabel | str:
    """The label, or what is wrong with the entry."""
    if not isinstance(entry, dict):
        return "this is not a JSON object"
    missing = [name for name in ("modelId", "layer", "index", "description") if name not in entry]
    if missing:
        return f"{', '.join(missing)} missing"
    index = str(entry["index"])
    if not (index.isascii() and index.isdecimal() and len(index) < 10 and int(index) < d_sae):
        return f"the index {_line(index)[:_SHOWN]!r} is not one of 0 to {d_sae - 1}"
    text = _line(entry["description"]) if isinstance(entry["description"], str) else ""
    if not text:
        return "the description is empty"
    if len(text) > MAX_TEXT:
        return f"the description has more than {MAX_TEXT:,} characters"
    by = [entry.get(name) for name in ("explanationModelName", "typeName")]
    named = ", ".join(_line(name)[:_SHOWN] for name in by if isinstance(name, str) and name.strip())
    return PublishedLabel(int(index), text, f"Neuronpedia ({named})" if named else "Neuronpedia")


def _line(text: str) -> str:
    """The text on one line, without characters that cannot be shown."""
    shown = "".join(c if c.isprintable() else " " for c in valid_text(text))
    return " ".join(shown.split())
