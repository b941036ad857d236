"""Labels, notes, stars and descriptions of latents, on every database."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif_core.errors import StorageError, UnknownLatentError, UnknownNameError
from saif_core.records.notes import LatentDescription, LatentNote
from storage import Store
from storage.note_store import NoteStore, folded_words
from tests.storage_samples import ODD_TEXT

pytest_plugins = ["tests.storage_fixtures"]


@pytest.fixture
def notes(store: Store) -> NoteStore:
    return store.notes


def add(notes: NoteStore, text: str, **changes: str) -> LatentNote:
    note = notes.add("sae", 7, "label", text, **changes)
    assert note is not None
    return note


def test_notes_are_listed_newest_first_and_by_sae_and_latent(notes: NoteStore) -> None:
    first = add(notes, "French", author="Ada")
    second = notes.add("sae", 7, "note", "fires on accents", author="Ada")
    notes.add("other sae", 7, "label", "elsewhere")
    notes.add("sae", 8, "label", "neighbour")
    assert notes.list("sae", 7) == [second, first]
    assert first == LatentNote("sae", 7, "label", "French", "Ada", "", first.id, first.created_at)


def test_an_imported_label_names_its_catalogue(notes: NoteStore) -> None:
    add(notes, "French words", source="neuronpedia")
    assert [note.source for note in notes.list("sae", 7)] == ["neuronpedia"]


def test_a_star_is_of_one_author_and_toggles(notes: NoteStore) -> None:
    assert notes.add("sae", 7, "star", author="Ada") is not None
    assert notes.add("sae", 7, "star", author="Bea") is not None
    assert notes.add("sae", 7, "star", author="Ada") is None
    assert [note.author for note in notes.list("sae", 7)] == ["Bea"]
    assert notes.add("sae", 7, "star", author="Ada") is not None
    assert len(notes.list("sae", 7)) == 2


def test_a_removed_note_is_gone_and_the_others_stay(notes: NoteStore) -> None:
    first, second = add(notes, "one"), add(notes, "two")
    notes.remove(first.id)
    assert notes.list("sae", 7) == [second]
    with pytest.raises(UnknownNameError, match=re.escape(second.id)):
        notes.remove(first.id)
    with pytest.raises(UnknownNameError):
        notes.remove("\0 \ud83d")


def test_odd_text_is_stored_as_text(notes: NoteStore) -> None:
    stored = notes.add(ODD_TEXT, 7, "note", f"  {ODD_TEXT} ", ODD_TEXT, ODD_TEXT)
    assert stored is not None
    assert notes.list(ODD_TEXT, 7) == [stored]
    assert stored.text == ODD_TEXT.replace("\0", "\ufffd").replace("\ud83d", "\ufffd")


@pytest.mark.parametrize(
    ("kind", "text", "author", "message"),
    [
        ("label", "x" * 201, "", "A label of 201 characters .* shorten it to 200."),
        ("note", "x" * 10_001, "", "A note of 10,001 characters .* shorten it to 10,000."),
        ("star", "", "x" * 201, "A name of an author of 201 characters"),
        ("label", " \n", "", "The label of latent 7 is empty; type one."),
    ],
)
def test_a_text_that_does_not_fit_is_refused_in_one_sentence(
    notes: NoteStore, kind: str, text: str, author: str, message: str
) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        notes.add("sae", 7, kind, text, author)  # type: ignore[arg-type]
    assert str(raised.value).count(".") == 1
    assert notes.list("sae", 7) == []


def test_the_longest_texts_are_stored(notes: NoteStore) -> None:
    assert add(notes, "é" * 200, author="a" * 200).text == "é" * 200
    notes.add("sae", 7, "note", "x" * 10_000)
    assert len(notes.list("sae", 7)) == 2


@pytest.mark.parametrize("latent", [-1, 1 << 32, 1 << 70])
def test_a_latent_that_cannot_be_is_refused(notes: NoteStore, latent: int) -> None:
    description = LatentDescription("sae", latent, "max-act", "text")
    for ask in (
        lambda: notes.add("sae", latent, "label", "text"),
        lambda: notes.list("sae", latent),
        lambda: notes.add_description(description),
        lambda: notes.descriptions("sae", latent),
    ):
        with pytest.raises(UnknownLatentError, match=f"Latent {latent} was asked for"):
            ask()


def make_description(text: str) -> LatentDescription:
    return LatentDescription(
        sae_sha256="sae",
        latent=7,
        method="max-act",
        text=text,
        model="tiny",
        prompt=f"Describe: {ODD_TEXT}",
        evidence={"tokens": ["le", "\0"], "nested": {"n": [1, 2.5, None]}},
        input_score=0.75,
    )


def test_descriptions_come_back_whole_and_newest_first(notes: NoteStore) -> None:
    stored = [notes.add_description(make_description(text)) for text in ("one", "two")]
    notes.add_description(replace(make_description("elsewhere"), latent=8, id="x"))
    assert notes.descriptions("sae", 7) == stored[::-1]
    assert stored[0].evidence == {"tokens": ["le", "\0"], "nested": {"n": [1, 2.5, None]}}
    assert (stored[0].input_score, stored[0].output_score) == (0.75, None)
    assert "\0" not in stored[0].prompt


def test_a_description_added_twice_is_there_once(notes: NoteStore) -> None:
    description = make_description("one")
    notes.add_description(description)
    notes.add_description(description)
    assert len(notes.descriptions("sae", 7)) == 1


@pytest.mark.parametrize(
    "changes",
    [{"output_score": float("nan")}, {"evidence": {"x": float("inf")}}, {"evidence": {"x": {1}}}],
)
def test_a_description_that_json_cannot_write_is_refused(
    notes: NoteStore, changes: dict[str, float]
) -> None:
    with pytest.raises(StorageError, match="JSON cannot write"):
        notes.add_description(replace(make_description("one"), **changes))  # type: ignore[arg-type]
    assert notes.descriptions("sae", 7) == []


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Éléphant, CRÈME—brûlée!", "elephant creme brulee"),
        ("snake_case foo.bar/baz-2 'x'", "snake case foo bar baz 2 x"),
        ("STRASSE Straße ﬁn ①", "strasse fin 1"),
        ("我喜欢水", "我 喜 欢 水"),
        ("हिन्दी", "हिन्दी"),
        ("a\0b \ud83d 🇫🇷 -- ' \" \\ %", "a b"),
        ("x" * 70, "x" * 64),
        ("!?", ""),
    ],
)
def test_words_are_folded(text: str, folded: str) -> None:
    assert folded_words(text) == folded


@given(st.text())
def test_folding_twice_is_folding_once_and_leaves_only_words(text: str) -> None:
    folded = folded_words(text)
    assert folded_words(folded) == folded
    assert not set(folded) & set("'\"\\&|!():*<>-_\0")
