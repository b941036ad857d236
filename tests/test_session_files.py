import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.presentation.session_files import (
    MAX_BYTES,
    export_filename,
    export_session,
    import_session,
)
from saif_core.errors import StorageError
from saif_core.records.sessions import SteeringSession
from tests import saved


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(export_session(saved.session()))
    change(document)
    return json.dumps(document).encode()


def test_an_exported_session_comes_back_as_a_new_one_without_a_link() -> None:
    session = replace(saved.session(), share_id="secret", created_at="2020-01-01T00:00:00+00:00")
    again = import_session(export_session(session).encode(), filename="a.json")
    assert again.id != session.id
    assert again.share_id is None
    assert again.created_at > session.created_at
    assert (
        replace(
            again,
            id=session.id,
            share_id="secret",
            created_at=session.created_at,
            updated_at=session.updated_at,
        )
        == session
    )


def test_an_export_does_not_hold_the_share_link() -> None:
    assert "secret" not in export_session(replace(saved.session(), share_id="secret"))


def test_an_export_says_its_format_and_version() -> None:
    document = json.loads(export_session(saved.session()))
    assert document["format"] == "saif-session"
    assert document["schema_version"] == 1


def test_a_byte_order_mark_is_no_obstacle() -> None:
    data = b"\xef\xbb\xbf" + export_session(saved.session()).encode()
    assert import_session(data, filename="a.json").name == saved.session().name


def test_texts_with_odd_signs_survive() -> None:
    session = replace(saved.session(), notes="null \x00, line \u2028, smile \U0001f600")
    again = import_session(export_session(session).encode(), filename="a.json")
    assert again.notes == session.notes


def test_a_number_that_is_not_finite_is_not_exported() -> None:
    session = replace(saved.session(), result=replace(saved.result(), seconds=float("nan")))
    with pytest.raises(StorageError, match="not finite"):
        export_session(session)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "could not be read as JSON"),
        (b"\xff\xfe{}", "could not be read as JSON"),
        (b"{", "could not be read as JSON"),
        (b"[" * 100_000, "could not be read as JSON"),
        (b'{"format": "saif-session", "x": NaN}', "NaN is not a JSON number"),
        (b"9" * 5000, "could not be read as JSON"),
        (b"[]", "not a SAIF session"),
        (b"null", "not a SAIF session"),
        (b'{"format": "other"}', "not a SAIF session"),
        (b'{"format": "saif-session", "schema_version": 1}', 'no object under "session"'),
        (b" " * (MAX_BYTES + 1), "at most 8 MiB"),
    ],
)
def test_a_file_that_is_no_session_is_refused_in_one_sentence(data: bytes, reason: str) -> None:
    with pytest.raises(StorageError) as caught:
        import_session(data, filename="odd.json")
    assert reason in str(caught.value)
    assert "'odd.json'" in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("version", [0, 2, True, "1", None, 1.5])
def test_an_unknown_version_is_refused(version: object) -> None:
    data = changed(lambda document: document.update(schema_version=version))
    with pytest.raises(StorageError, match="reads version 1"):
        import_session(data, filename="a.json")


def set_in(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        for parent in parents:
            document = document[parent]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("session.unknown", 1),
        ("session.name", None),
        ("session.name", "half a pair: \ud800"),
        ("session.prompts", "no list"),
        ("session.recipe.strength", "much"),
        ("session.recipe.strength", 10**400),
        ("session.recipe.scope", "everywhere"),
        ("session.recipe.latents", [{"index": 1}]),
        ("session.ranking", {}),
    ],
)
def test_a_session_that_does_not_fit_its_records_is_refused(path: str, value: object) -> None:
    with pytest.raises(StorageError, match="complete session"):
        import_session(changed(set_in(path, value)), filename="a.json")


def test_an_infinite_number_is_refused() -> None:
    data = changed(set_in("session.result.seconds", 123.25)).replace(b"123.25", b"1e999")
    with pytest.raises(StorageError, match="complete session"):
        import_session(data, filename="a.json")


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("Capitals, first try", "capitals-first-try.saif.json"),
        ("../../etc/passwd", "etc-passwd.saif.json"),
        ("法语", "session.saif.json"),
        ("a" * 200, "a" * 60 + ".saif.json"),
    ],
)
def test_a_file_name_is_made_of_plain_letters(name: str, filename: str) -> None:
    assert export_filename(SteeringSession(name)) == filename
