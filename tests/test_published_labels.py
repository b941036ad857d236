"""Published labels as exports hold them, whole, odd and hostile."""

import gzip
import json
from typing import Any

import pytest

from saif_core.errors import SaeMismatchError, SaifError
from saif_core.explaining import published_labels
from saif_core.explaining.published_labels import PublishedLabel, read_published_labels

SAE = "gemma-2-2b/12-gemmascope-res-16k"
LABELS = [
    PublishedLabel(3, "French words", "Neuronpedia (gpt-4o-mini, oai_token-act-pair)"),
    PublishedLabel(16_383, "ère and ê 😀", "Neuronpedia (gpt-4o-mini, oai_token-act-pair)"),
]


def record(index: Any, description: Any = "French words", **extra: Any) -> dict[str, Any]:
    return {
        "modelId": "gemma-2-2b",
        "layer": "12-gemmascope-res-16k",
        "index": index,
        "description": description,
        "explanationModelName": "gpt-4o-mini",
        "typeName": "oai_token-act-pair",
        "embedding": [0.25, -0.5],
        **extra,
    }


RECORDS = [record("3"), record(16_383, "ère and\n ê 😀")]


def as_lines(*entries: Any) -> bytes:
    return "\n".join(json.dumps(entry) for entry in entries).encode()


def read(
    data: bytes, filename: str = "labels.jsonl", neuronpedia_id: str | None = SAE
) -> published_labels.PublishedLabels:
    return read_published_labels(data, filename, neuronpedia_id=neuronpedia_id, d_sae=16_384)


@pytest.mark.parametrize(
    "data",
    [
        as_lines(*RECORDS),
        as_lines(*RECORDS).replace(b"\n", b"\r\n\r\n") + b"\n",
        b"\xef\xbb\xbf" + json.dumps(RECORDS, ensure_ascii=False).encode(),
        b"\n " + json.dumps(RECORDS, indent=2).encode() + b"\n",
        gzip.compress(as_lines(*RECORDS)),
        gzip.compress(as_lines(RECORDS[0]) + b"\n") + gzip.compress(as_lines(RECORDS[1])),
    ],
)
def test_an_export_is_read_however_it_is_packed(data: bytes) -> None:
    assert read(data) == (LABELS, [])


def test_several_labels_of_one_latent_are_kept_with_their_sources() -> None:
    other = record(3, "accents", explanationModelName="claude", typeName=None)
    labels, odd = read(as_lines(record(3), other))
    assert labels == [LABELS[0], PublishedLabel(3, "accents", "Neuronpedia (claude)")]
    assert not odd
    (label,), _ = read(as_lines(record(3, explanationModelName=None, typeName=" ")))
    assert label.source == "Neuronpedia"


@pytest.mark.parametrize(
    "foreign", [{"layer": "12-gemmascope-res-65k"}, {"modelId": "gemma-2-9b"}, {"layer": None}]
)
def test_labels_of_another_sae_are_refused(foreign: dict[str, Any]) -> None:
    entries = [record(3), record(4, **foreign)]
    for data in (as_lines(*entries), json.dumps(entries).encode()):
        with pytest.raises(SaeMismatchError, match=f"entry 2.*{SAE}.*choose the export") as caught:
            read(data, "C:/secret/labels.jsonl")
        assert str(caught.value).startswith("labels.jsonl holds labels for")


def test_an_sae_without_a_neuronpedia_id_has_no_published_labels() -> None:
    for missing in (None, ""):
        with pytest.raises(SaeMismatchError, match="no Neuronpedia id"):
            read(as_lines(*RECORDS), neuronpedia_id=missing)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (b"not json", "not a JSON object"),
        (b'{"modelId": "gemma', "not a JSON object"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"{" * 50_000, "not a JSON object"),
        (b'{"a":' * 50_000, "not a JSON object"),
        (as_lines({"index": 3}), "modelId, layer, description missing"),
        (as_lines(record(16_384)), "0 to 16383"),
        (as_lines(record(-1)), "0 to 16383"),
        (as_lines(record("9" * 5000)), "0 to 16383"),
        (as_lines(record("3.5")), "0 to 16383"),
        (as_lines(record("٣")), "0 to 16383"),
        (as_lines(record(True)), "0 to 16383"),
        (as_lines(record(None)), "0 to 16383"),
        (as_lines(record(3, " \n\0")), ""),
        (as_lines(record(3, "\u202e \n")), "description is empty"),
        (as_lines(record(3, None)), "description is empty"),
        (as_lines(record(3, ["x"])), "description is empty"),
        (as_lines(record(3, "x" * 2001)), "more than 2,000 characters"),
    ],
)
def test_an_odd_line_is_left_out_and_named(entry: bytes, problem: str) -> None:
    labels, odd = read(as_lines(RECORDS[0]) + b"\n\n" + entry + b"\n" + as_lines(RECORDS[1]))
    if not problem:  # NUL is shown as a replacement character, as it cannot be stored
        assert labels[1].text == "�"
        return
    assert labels == LABELS
    ((number, found),) = odd
    assert number == 3
    assert problem in found
    assert len(found) < 200


def test_text_that_cannot_be_stored_is_made_storable() -> None:
    line = as_lines(record(3, "a\ud800b\0c\td", explanationModelName="x\ny\udfff"))
    (label,), _ = read(line)
    assert label == PublishedLabel(3, "a�b�c d", "Neuronpedia (x y�, oai_token-act-pair)")


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(RECORDS).encode()[:-30],
        b"[" + as_lines(*RECORDS) + b"]",
        b"[",
        b"[" * 100_000,
        b"[\xff]",
        json.dumps(RECORDS).encode().replace(b"}, {", b"} {"),
        json.dumps(RECORDS).encode()[:-1] + b",]",
        json.dumps(RECORDS).encode()[:-1] + b"," + b"9" * 5000 + b"]",
    ],
)
def test_a_damaged_array_is_one_sentence(data: bytes) -> None:
    with pytest.raises(SaifError, match=r"cannot be read as JSON after entry [0-2]; download"):
        read(data)


def test_a_damaged_gzip_file_is_one_sentence() -> None:
    packed = gzip.compress(as_lines(*RECORDS) * 100)
    for data in (packed[:-20], packed[:10] + b"\xff" * 50, b"\x1f\x8b", b"\x1f\x8bxxxxxxxxxxxxxx"):
        with pytest.raises(SaifError, match="damaged gzip"):
            read(data)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"[]", b"hello", as_lines(record(99_999))])
def test_a_file_without_a_label_is_refused(data: bytes) -> None:
    with pytest.raises(SaifError, match="holds no label"):
        read(data)


def test_large_files_and_gzip_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_labels, "MAX_BYTES", 1_000_000)
    data = as_lines(RECORDS[0]) + b"\n" * 2_000_000
    for packed in (data, gzip.compress(data)):
        with pytest.raises(SaifError, match="more than the 1 MB"):
            read(packed)


def test_a_file_that_is_something_else_is_given_up_early() -> None:
    with pytest.raises(SaifError, match=r"more than 1,000 entries .* first at 1 "):
        read(b"x\n" * 1_000_000)
