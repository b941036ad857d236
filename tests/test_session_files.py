"""Session files: what is written, what is read back, and what is refused."""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from app.presentation import session_files
from app.presentation.session_files import (
    MAX_BYTES,
    MAX_SESSION_BYTES,
    MAX_TENSORS,
    export_filename,
    export_session,
    import_session,
)
from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import Arm, Edit
from storage import Store, open_store
from tests import saved


@pytest.fixture
def here() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


@pytest.fixture
def elsewhere() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


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
    assert document["schema_version"] == 2
    assert "tensors" not in document


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
        (b'{"format": "saif-session", "schema_version": 2}', 'no object under "session"'),
        (b" " * (MAX_SESSION_BYTES + 1), "at most 8 MiB"),
        (b"A" * (MAX_BYTES + 1), "at most 8 MiB"),
        (b'["' + b"A" * (MAX_BYTES - 4) + b'"]', "not a SAIF session"),
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


@pytest.mark.parametrize("version", [0, 3, -1, True, "1", None, 1.5])
def test_an_unknown_version_is_refused(version: object) -> None:
    data = changed(lambda document: document.update(schema_version=version))
    with pytest.raises(StorageError, match="reads versions 1 to 2"):
        import_session(data, filename="a.json")


def set_in(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        inside: Any = document
        for parent in parents:
            inside = inside[int(parent) if parent.isdigit() else parent]
        inside[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("session.unknown", 1),
        ("session.name", None),
        ("session.name", "half a pair: \ud800"),
        ("session.recipe.request.prompts", "no list"),
        ("session.recipe.request.arms.1.strength", "much"),
        ("session.recipe.request.arms.1.strength", 10**400),
        ("session.recipe.request.arms.1.strength", 1000),
        ("session.recipe.request.arms.1.schedule.scope", "everywhere"),
        ("session.recipe.request.arms.1.edits.0.latents", [{"index": 1}]),
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


def with_vectors(store: Store, n: int = 1) -> SteeringSession:
    """A session with arms that add vectors which the store holds."""
    rng = np.random.default_rng(0)
    hashes = [
        store.tensors.put_vector(rng.standard_normal(16, dtype=np.float32).tolist())
        for _ in range(n)
    ]
    arms = [Arm(f"vector {at}", edits=(Edit(1, tensors=sha),)) for at, sha in enumerate(hashes)]
    session = saved.session()
    assert session.result is not None
    assert session.request is not None
    request = replace(session.request, arms=(*session.request.arms, *arms))
    recipe = replace(saved.recipe(), request=request)
    return replace(session, recipe=recipe, result=replace(session.result, recipe=recipe))


def vectors_of(session: SteeringSession) -> list[str]:
    assert session.request is not None
    return [e.tensors for arm in session.request.arms for e in arm.edits if e.tensors]


def test_a_session_with_vectors_opens_on_another_installation(
    here: Store, elsewhere: Store
) -> None:
    session = with_vectors(here, 3)
    document = export_session(session, here.tensors)
    assert set(json.loads(document)["tensors"]) == set(vectors_of(session))
    again = import_session(document.encode(), filename="a.json", tensors=elsewhere.tensors)
    assert again.recipe == session.recipe
    assert again.result == session.result
    assert len(vectors_of(again)) == 3
    for sha256 in vectors_of(again):
        found = elsewhere.tensors.get(sha256)["vector"]
        np.testing.assert_array_equal(found, here.tensors.get(sha256)["vector"])
        assert found.dtype == np.float32
    assert export_session(elsewhere.sessions.save(again), elsewhere.tensors).count('"tensors"') > 3


def test_tensors_that_are_known_already_need_not_be_in_the_file(here: Store) -> None:
    session = with_vectors(here)
    document = json.loads(export_session(session, here.tensors))
    del document["tensors"]
    again = import_session(json.dumps(document).encode(), filename="a.json", tensors=here.tensors)
    assert again.recipe == session.recipe


def test_tensors_that_no_arm_names_are_left(here: Store, elsewhere: Store) -> None:
    document = json.loads(export_session(with_vectors(here), here.tensors))
    document["session"] = json.loads(export_session(saved.session()))["session"]
    import_session(json.dumps(document).encode(), filename="a.json", tensors=elsewhere.tensors)
    assert not any(elsewhere.tensors.has(sha256) for sha256 in document["tensors"])


def test_a_session_with_vectors_needs_a_store_on_both_sides(here: Store) -> None:
    session = with_vectors(here)
    with pytest.raises(StorageError, match="no store was given"):
        export_session(session)
    document = export_session(session, here.tensors).encode()
    with pytest.raises(StorageError, match="no store was given"):
        import_session(document, filename="a.json")


def test_tensors_that_are_gone_cannot_be_exported(here: Store, elsewhere: Store) -> None:
    with pytest.raises(UnknownNameError, match="tensors"):
        export_session(with_vectors(here), elsewhere.tensors)


def test_a_file_carries_only_so_many_tensors_of_so_many_bytes(
    here: Store, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = with_vectors(here, MAX_TENSORS)
    document = export_session(most, here.tensors)
    import_session(document.encode(), filename="a.json", tensors=elsewhere.tensors)
    with pytest.raises(StorageError, match="its arms read 65 entries .* leave out some arms"):
        export_session(with_vectors(here, MAX_TENSORS + 1), here.tensors)
    monkeypatch.setattr(session_files, "MAX_TENSORS", MAX_TENSORS - 1)
    with pytest.raises(StorageError, match="carries 64 entries .* at most 63"):
        import_session(document.encode(), filename="a.json", tensors=elsewhere.tensors)
    monkeypatch.undo()
    monkeypatch.setattr(session_files, "MAX_TENSOR_BYTES", 5000)
    with pytest.raises(StorageError, match="its arms read 64 entries"):
        export_session(most, here.tensors)
    with pytest.raises(StorageError, match="carries 64 entries"):
        import_session(document.encode(), filename="a.json", tensors=elsewhere.tensors)


def of_tensors(payload: bytes) -> tuple[str, str]:
    return hashlib.sha256(payload).hexdigest(), base64.b64encode(payload).decode()


def bfloat16() -> bytes:
    """Safetensors bytes of a type that numpy does not have."""
    header = json.dumps({"vector": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(4)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not as a store of SAIF writes them"),
        (b"no tensors", "not as a store of SAIF writes them"),
        (save({"b": np.ones(2), "a": np.ones(2)}, {"made": "by hand"}), "not as a store"),
        (bfloat16(), "not as a store of SAIF writes them"),
        (save({"vector": np.array([np.nan], dtype=np.float32)}), "not finite"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "not as a store of SAIF writes them"),
    ],
)
def test_what_is_no_entry_of_tensors_is_not_kept(
    payload: bytes, reason: str, here: Store, elsewhere: Store
) -> None:
    document = json.loads(export_session(with_vectors(here), here.tensors))
    ((old, _),) = document["tensors"].items()
    new, text = of_tensors(payload)
    document["tensors"] = {new: text}
    data = json.dumps(document).replace(old, new).encode()
    with pytest.raises(StorageError, match=reason) as raised:
        import_session(data, filename="a.json", tensors=elsewhere.tensors)
    assert "\n" not in str(raised.value)
    assert not elsewhere.tensors.has(new)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"0" * 64: base64.b64encode(b"x").decode()}, "not what was exported"),
        ({"0" * 64: "no base64!"}, "not what was exported"),
        ({"0" * 64: "\u00e9"}, "not what was exported"),
        ({}, "but not these tensors"),
        ([], "something else than tensors"),
        ({"0" * 64: 1}, "something else than tensors"),
        (None, "something else than tensors"),
    ],
)
def test_tensors_that_are_damaged_or_missing_are_refused(
    tensors: object, reason: str, here: Store, elsewhere: Store
) -> None:
    document = json.loads(export_session(with_vectors(here), here.tensors))
    document["tensors"] = tensors
    data = json.dumps(document).encode()
    with pytest.raises(StorageError, match=reason) as raised:
        import_session(data, filename="odd.json", tensors=elsewhere.tensors)
    assert "'odd.json'" in str(raised.value)
    assert len(str(raised.value)) < 400


def test_long_texts_do_not_pass_for_tensors(elsewhere: Store) -> None:
    session = replace(saved.session(), notes="A" * (MAX_SESSION_BYTES + 1))
    with pytest.raises(StorageError, match="at most 8 MiB"):
        import_session(
            export_session(session).encode(), filename="a.json", tensors=elsewhere.tensors
        )


def test_a_file_made_to_take_long_is_refused_at_once() -> None:
    data = (b"A" * 1000 + b'"') * (MAX_SESSION_BYTES // 1001 + 1)
    started = time.perf_counter()
    with pytest.raises(StorageError):
        import_session(data, filename="a.json")
    assert time.perf_counter() - started < 5


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
