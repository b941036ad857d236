"""Profiles of latents: stored, listed and searched."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, func, select, text

from saif_core.errors import StorageError, UnknownLatentError, UnknownNameError
from saif_core.records.corpus import (
    HISTOGRAM_BINS,
    CorpusBlock,
    LatentFilter,
    LatentPage,
    LatentProfile,
    LatentSort,
    ProfileExample,
    ProfileText,
)
from saif_core.records.packing import pack_profile
from storage import Store, open_store
from storage.tables import LatentProfileRow, LatentRow, LatentTextRow
from tests.storage_samples import ODD_TEXT

pytest_plugins = ["tests.storage_fixtures"]

D_SAE = 8
N_CONTEXTS = 5
N_TOKENS = 20  # 4 in each context
SAE = "sae hash"


def make_index(store: Store, name: str = "corpus", *, finish: bool = True) -> str:
    """An index whose context ``c`` holds the tokens 10 c to 10 c + 3; latent 3 fires on each."""
    index_id = store.latents.open_index(name, "model hash", SAE, D_SAE, "blocks.1").id
    block = CorpusBlock(
        token_ids=np.array([10 * c + t for c in range(N_CONTEXTS) for t in range(4)]),
        context_starts=np.arange(N_CONTEXTS) * 4,
        counts=np.ones(N_TOKENS, dtype=np.int64),
        indices=np.full(N_TOKENS, 3),
        values=np.ones(N_TOKENS, dtype=np.float32),
        documents=tuple(f"document {c}" for c in range(N_CONTEXTS)),
    )
    store.latents.append(index_id, block)
    if finish:
        store.latents.finish(index_id)
    return index_id


def make_profile(latent: int, contexts: tuple[int, ...] = (), **changes: Any) -> LatentProfile:
    examples = tuple(
        ProfileExample(0, context, 2, 1, np.array([0.0, 1.5, 0.25], dtype=np.float32))
        for context in contexts
    )
    profile = LatentProfile(
        latent=latent,
        n_fired=latent,
        maximum=1.5,
        mean=0.75,
        quantiles=(0.25,) * 7,
        histogram=(1,) * HISTOGRAM_BINS,
        n_first=1,
        n_special=0,
        cofiring=((5, 2),),
        examples=examples,
        promoted=((17, 2.5),),
        suppressed=((18, -2.5),),
        logit_histogram=(4, 5, 6),
        logit_range=(-1.0, 1.0),
    )
    return replace(profile, **changes)


def put(
    store: Store,
    index_id: str,
    profile: LatentProfile,
    promotes: str = "",
    fires_on: str = "",
    examples: str = "",
) -> None:
    store.profiles.put(index_id, [profile], [ProfileText(promotes, fires_on, examples)])


def latents_of(page: LatentPage) -> list[int]:
    return [row.latent for row in page.rows]


def search(store: Store, index_id: str, words: str, **options: Any) -> list[int]:
    return latents_of(store.profiles.page(index_id, filters=LatentFilter(text=words), **options))


def n_rows(store: Store, kind: Any) -> int:
    with store._database.transaction("Counting") as db:
        return db.scalar(select(func.count()).select_from(kind)) or 0


def test_a_profile_comes_back_as_it_was_put(store: Store) -> None:
    index_id = make_index(store)
    profile = make_profile(3, (4, 0), s_in=0.5)
    put(store, index_id, profile)
    put(store, index_id, make_profile(4))
    found = store.profiles.get(index_id, 3)
    assert pack_profile(found) == pack_profile(profile)
    assert found.examples[1].activations.tolist() == [0.0, 1.5, 0.25]
    assert found.promoted == ((17, 2.5),)


def test_putting_again_replaces_the_profile_and_its_words(store: Store) -> None:
    index_id = make_index(store)
    for _ in range(2):
        put(store, index_id, make_profile(3), "water")
    assert search(store, index_id, "water") == [3]
    put(store, index_id, make_profile(3, n_fired=11, s_in=0.5), "fire")
    assert store.profiles.get(index_id, 3).n_fired == 11
    (row,) = store.profiles.page(index_id).rows
    assert (row.n_fired, row.s_in, row.promotes) == (11, 0.5, "fire")
    assert search(store, index_id, "water") == []
    assert search(store, index_id, "fire") == [3]


def test_profiles_are_put_all_or_none(store: Store) -> None:
    index_id = make_index(store)
    profiles = [make_profile(1), make_profile(2, mean=float("nan"))]
    with pytest.raises(StorageError, match="latent 2"):
        store.profiles.put(index_id, profiles, [ProfileText("a", "", "")] * 2)
    assert store.profiles.page(index_id).n_total == 0
    assert search(store, index_id, "a") == []


@pytest.mark.parametrize(
    ("profile", "n_texts", "message"),
    [
        (make_profile(1), 2, "1 profiles were to be stored with 2 texts"),
        (make_profile(D_SAE), 1, "index 'corpus' of 8 latents and 5 contexts"),
        (make_profile(-1), 1, "profile of latent -1 was to be stored"),
        (make_profile(1, (0, N_CONTEXTS)), 1, "does not have that latent or a context"),
    ],
)
def test_profiles_of_another_index_are_refused_in_one_sentence(
    store: Store, profile: LatentProfile, n_texts: int, message: str
) -> None:
    index_id = make_index(store)
    with pytest.raises(StorageError, match=message) as raised:
        store.profiles.put(index_id, [profile], [ProfileText("", "", "")] * n_texts)
    assert str(raised.value).count(".") == 1
    assert store.profiles.page(index_id).n_total == 0


def test_a_latent_without_profile_is_said(store: Store) -> None:
    index_id = make_index(store)
    put(store, index_id, make_profile(3))
    with pytest.raises(StorageError, match="profile of latent 0 was asked for"):
        store.profiles.get(index_id, 0)


@pytest.mark.parametrize("latent", [-1, D_SAE, 1 << 70])
def test_a_latent_that_the_index_lacks_is_said(store: Store, latent: int) -> None:
    index_id = make_index(store)
    put(store, index_id, make_profile(3))
    with pytest.raises(UnknownLatentError, match=f"Latent {latent} .* 'corpus' has latents 0 to 7"):
        store.profiles.get(index_id, latent)


def test_an_index_that_is_not_there_is_said(store: Store) -> None:
    index_id = make_index(store)
    profiles = store.profiles
    calls: list[Callable[[], object]] = [
        lambda: profiles.put("x\0", [], []),
        lambda: profiles.get("x\0", 0),
        lambda: profiles.contexts("x\0", [0]),
        lambda: profiles.page("x\0"),
        lambda: profiles.export("x\0"),
    ]
    for call in calls:
        with pytest.raises(UnknownNameError, match=index_id):
            call()


def test_contexts_are_given_by_their_place_in_the_corpus(store: Store) -> None:
    make_index(store, "other")
    index_id = make_index(store)
    found = store.profiles.contexts(index_id, [4, 0, 4, N_CONTEXTS, -1, 1 << 70])
    assert {ordinal: ids.tolist() for ordinal, ids in found.items()} == {
        0: [0, 1, 2, 3],
        4: [40, 41, 42, 43],
    }
    assert found[0].dtype == np.uint32
    assert len(store.profiles.contexts(index_id, range(5000))) == N_CONTEXTS


MEASURED: dict[int, dict[str, Any]] = {
    0: {"n_fired": 0, "maximum": 0.0},
    1: {"n_fired": 10, "maximum": 3.0, "s_in": 0.25},
    2: {"n_fired": 1, "maximum": 9.0, "s_in": 0.75, "s_out": -0.5},
    4: {"n_fired": 3, "maximum": 3.0, "s_out": 0.5},
    7: {"n_fired": 20, "maximum": 1.0, "s_in": 0.5},
}


@pytest.fixture
def measured(store: Store) -> str:
    index_id = make_index(store)
    profiles = [make_profile(latent, **values) for latent, values in MEASURED.items()]
    store.profiles.put(
        index_id, profiles, [ProfileText(f"token{n}", "", "") for n in range(len(profiles))]
    )
    return index_id


@pytest.mark.parametrize(
    ("sort", "descending", "latents"),
    [
        (None, False, [0, 1, 2, 4, 7]),
        ("latent", True, [7, 4, 2, 1, 0]),
        ("density", False, [0, 2, 4, 1, 7]),
        ("density", True, [7, 1, 4, 2, 0]),
        ("maximum", True, [2, 1, 4, 7, 0]),
        ("s_in", False, [1, 7, 2, 0, 4]),
        ("s_in", True, [2, 7, 1, 0, 4]),
        ("s_out", True, [4, 2, 0, 1, 7]),
    ],
)
def test_a_list_is_sorted_with_what_was_not_measured_last(
    store: Store, measured: str, sort: LatentSort | None, descending: bool, latents: list[int]
) -> None:
    whole = store.profiles.page(measured, sort=sort, descending=descending)
    assert latents_of(whole) == latents
    pages = [
        store.profiles.page(measured, sort=sort, descending=descending, offset=start, limit=2)
        for start in (0, 2, 4, 6)
    ]
    assert [latent for page in pages for latent in latents_of(page)] == latents
    assert {page.n_total for page in pages} == {5}


@pytest.mark.parametrize(
    ("filters", "latents"),
    [
        (LatentFilter(min_density=0.15), [1, 4, 7]),
        (LatentFilter(max_density=0.15), [0, 2, 4]),
        (LatentFilter(min_density=0.05, max_density=0.5), [1, 2, 4]),
        (LatentFilter(min_s_in=0.5), [2, 7]),
        (LatentFilter(min_s_out=-0.5), [2, 4]),
        (LatentFilter(min_s_in=0.0, min_s_out=0.0), []),
        (LatentFilter(latents=(7, 1, 3, -1, 1 << 70)), [1, 7]),
        (LatentFilter(latents=()), []),
        (LatentFilter(text="token", min_s_in=0.5), [2, 7]),
        (LatentFilter(text="  "), [0, 1, 2, 4, 7]),
        (LatentFilter(min_density=float("inf")), []),
    ],
)
def test_filters_let_through_what_meets_all_of_them(
    store: Store, measured: str, filters: LatentFilter, latents: list[int]
) -> None:
    page = store.profiles.page(measured, sort="latent", filters=filters)
    assert latents_of(page) == latents
    assert page.n_total == len(latents)


def test_a_line_says_what_is_known_of_the_latent(store: Store, measured: str) -> None:
    store.notes.add(SAE, 2, "label", "an old label")
    store.notes.add(SAE, 2, "label", "the new label")
    store.notes.add(SAE, 2, "label", "an imported label", source="catalogue")
    store.notes.add(SAE, 2, "star", author="Ada")
    row = store.profiles.page(measured).rows[2]
    assert (row.latent, row.n_fired, row.density, row.maximum) == (2, 1, 1 / N_TOKENS, 9.0)
    assert (row.s_in, row.s_out, row.promotes) == (0.75, -0.5, "token2")
    assert (row.label, row.starred, row.found_in) == ("the new label", True, ())


def test_stars_and_labels_filter_the_list_at_once(store: Store, measured: str) -> None:
    def listed(**conditions: Any) -> list[int]:
        return latents_of(store.profiles.page(measured, filters=LatentFilter(**conditions)))

    assert (listed(starred=True), listed(labelled=True)) == ([], [])
    store.notes.add(SAE, 4, "star", author="Ada")
    store.notes.add("other sae", 1, "star", author="Ada")
    label = store.notes.add(SAE, 7, "label", "of people")
    store.notes.add(SAE, 2, "label", "of a catalogue", source="catalogue")
    assert label is not None
    assert (listed(starred=True), listed(labelled=True)) == ([4], [7])
    assert listed(starred=True, labelled=True) == []
    store.notes.add(SAE, 4, "star", author="Ada")
    store.notes.remove(label.id)
    assert (listed(starred=True), listed(labelled=True)) == ([], [])


@pytest.fixture
def searched(store: Store) -> str:
    make_index(store, "other")
    index_id = make_index(store)
    put(store, index_id, make_profile(0), "water, rain", "river", "The ship sails on the sea.")
    put(store, index_id, make_profile(1), "Éléphant", "zoo", "I saw waterfalls; water water!")
    put(store, index_id, make_profile(2), "fire", "watery", "nothing to see")
    put(store, index_id, make_profile(5), "我喜欢水", "foo_bar", "it's 3.14")
    return index_id


@pytest.mark.parametrize(
    ("words", "latents"),
    [
        ("water", [0, 1, 2]),
        ("WATERF", [1]),
        ("ater", []),
        ("wa", [0, 1, 2]),
        ("w", []),
        ("I", [1]),
        ("sea water", [0]),
        ("water sea river", [0]),
        ("water volcano", []),
        ("elephant", [1]),
        ("e\u0301le\u0301phant", [1]),
        ("水", [5]),
        ("bar", [5]),
        ("3.14", [5]),
        ("water OR fire", []),
        ("NOT water", [2]),  # nothing, watery
        ('"water', [0, 1, 2]),
        ("promotes:water", []),
        ("rain*", [0]),
        ("(((rain", [0]),
        ("rain & !ship | :*", [0]),
        ("rain \\' -- ; DROP TABLE latents", []),
        ("rain\0ship", [0]),
        ("rain \ud83d", [0]),
        ("?!", []),
        ("\0", []),
        ("\ud83d", []),
        ("🇫🇷", []),
        ("w" * 10_000, []),
        ("%", []),
        ("'", []),
    ],
)
def test_every_word_is_searched_for_from_its_beginning(
    store: Store, searched: str, words: str, latents: list[int]
) -> None:
    assert search(store, searched, words, sort="latent") == latents
    assert sorted(search(store, searched, words)) == latents
    page = store.profiles.page(searched, filters=LatentFilter(text=words), limit=1)
    assert page.n_total == len(latents)


def test_a_search_for_too_much_is_one_sentence(store: Store, searched: str) -> None:
    many = " ".join(f"word{n}" for n in range(2000))[:10_000]
    with pytest.raises(StorageError, match=r"^A search for .* words .* 32 at most\.$"):
        search(store, searched, many)
    assert search(store, searched, "water " * 1000, sort="latent") == [0, 1, 2]
    with pytest.raises(StorageError, match=r"10,001 latents .* 10,000 at most\.$"):
        store.profiles.page(searched, filters=LatentFilter(latents=tuple(range(10_001))))
    ten_thousand = LatentFilter(latents=tuple(range(10_000)), text="water")
    assert store.profiles.page(searched, filters=ten_thousand).n_total == 3


def test_a_search_says_where_it_found_the_words(store: Store, searched: str) -> None:
    store.notes.add(SAE, 1, "label", "Watercourses")
    filters = LatentFilter(text="water")
    rows = store.profiles.page(searched, sort="latent", filters=filters).rows
    assert [row.found_in for row in rows] == [
        ("tokens",),
        ("label", "examples"),
        ("tokens",),
    ]


def test_what_is_found_in_a_label_comes_before_tokens_and_tokens_before_examples(
    store: Store,
) -> None:
    index_id = make_index(store)
    put(store, index_id, make_profile(1), "other", "other", "water")
    put(store, index_id, make_profile(2), "water", "other", "other")
    put(store, index_id, make_profile(3), "other", "other", "other")
    for latent in (4, 5, 6, 7):
        put(store, index_id, make_profile(latent), "another", "word", "here")
    store.notes.add(SAE, 3, "label", "water")
    assert search(store, index_id, "water") == [3, 2, 1]


def test_labels_are_found_at_once_and_not_after_they_are_gone(store: Store, searched: str) -> None:
    assert search(store, searched, "french") == []
    first = store.notes.add(SAE, 2, "label", "Français: French words")
    second = store.notes.add(SAE, 2, "label", "Romance", source="catalogue")
    store.notes.add("other sae", 0, "label", "French")
    store.notes.add(SAE, 0, "note", "French")
    assert first is not None
    assert second is not None
    assert search(store, searched, "french") == [2]
    assert search(store, searched, "francais roman") == [2]
    store.notes.remove(first.id)
    assert search(store, searched, "french") == []
    assert search(store, searched, "romance fire") == [2]


def test_labels_from_before_the_profiles_are_found(store: Store) -> None:
    store.notes.add(SAE, 2, "label", "French")
    index_id = make_index(store)
    put(store, index_id, make_profile(2))
    put(store, index_id, make_profile(2))
    assert search(store, index_id, "french") == [2]


def test_a_label_reaches_every_index_of_its_sae(store: Store) -> None:
    first, second = make_index(store, "a"), make_index(store, "b")
    for index_id in (first, second):
        put(store, index_id, make_profile(2))
    store.notes.add(SAE, 2, "label", "French")
    assert search(store, first, "french") == search(store, second, "french") == [2]


def test_odd_texts_are_stored_and_found(store: Store) -> None:
    index_id = make_index(store)
    put(store, index_id, make_profile(1), ODD_TEXT, ODD_TEXT, "x" * 3_000_000 + ODD_TEXT)
    put(store, index_id, make_profile(2), "", "", " ".join(f"w{n}" for n in range(300_000)))
    assert search(store, index_id, "sessions 中 שלום") == [1]
    assert search(store, index_id, "w1", sort="latent") == [2]
    assert store.profiles.page(index_id).rows[0].promotes == ODD_TEXT.replace(
        "\0", "\ufffd"
    ).replace("\ud83d", "\ufffd")


def test_a_page_reads_no_profile(store: Store, searched: str) -> None:
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(store._database._engines[False], "before_cursor_execute", note)
    assert len(search(store, searched, "water", sort="maximum")) == 3
    assert any("latent_profiles.promotes" in statement for statement in statements)
    assert not any("latent_profiles.profile" in statement for statement in statements)


@pytest.mark.parametrize(("offset", "limit"), [(-5, -1), (1 << 70, 5), (0, 0)])
def test_a_page_outside_the_list_is_empty_but_counted(
    store: Store, measured: str, offset: int, limit: int
) -> None:
    assert store.profiles.page(measured, offset=offset, limit=limit) == LatentPage((), 5)


def test_a_deleted_index_leaves_nothing_of_its_profiles(store: Store) -> None:
    kept, deleted = make_index(store, "kept"), make_index(store, "deleted")
    for index_id in (kept, deleted):
        put(store, index_id, make_profile(2, (1,)), "water")
    store.latents.delete_index(deleted)
    assert search(store, kept, "water") == [2]
    assert [n_rows(store, kind) for kind in (LatentRow, LatentProfileRow, LatentTextRow)] == [1] * 3
    # The next index may get the number of the deleted one.
    again = make_index(store, "again")
    assert search(store, again, "water") == []
    put(store, again, make_profile(3), "fire")
    assert search(store, again, "water") == []


def test_the_search_index_of_sqlite_agrees_with_the_texts(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'saif.db'}")
    index_id = make_index(store)
    for words in ("water", "fire", "earth"):
        for latent in range(D_SAE):
            put(store, index_id, make_profile(latent), words, f"{words} {latent}", words * 3)
    store.notes.add(SAE, 1, "label", "air")
    other = make_index(store, "other")
    put(store, other, make_profile(1), "water")
    store.latents.delete_index(other)
    with store._database.transaction("Checking", write=True) as db:
        # It fails when the index is not what the texts would give now.
        db.execute(
            text("INSERT INTO latent_search(latent_search, rank) VALUES ('integrity-check', 1)")
        )
    store.close()


def test_threads_may_label_while_profiles_are_written(store: Store) -> None:
    index_id = make_index(store)
    errors: list[BaseException] = []

    def run(work: Callable[[int], object]) -> None:
        try:
            for latent in range(D_SAE):
                work(latent)
        except BaseException as error:
            errors.append(error)

    def write(latent: int) -> None:
        put(store, index_id, make_profile(latent), "water")

    def label(latent: int) -> None:
        store.notes.add(SAE, latent, "label", f"label{latent}")

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, label, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for latent in range(D_SAE):
        assert search(store, index_id, f"label{latent} water") == [latent]
