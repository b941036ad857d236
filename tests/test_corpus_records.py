"""Profiles of latents as bytes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saif_core.errors import StorageError
from saif_core.records.corpus import HISTOGRAM_BINS, QUANTILES, LatentProfile, ProfileExample
from saif_core.records.packing import (
    pack_activations,
    pack_profile,
    unpack_activations,
    unpack_profile,
)

counts = st.one_of(st.integers(0, 300), st.integers(0, (1 << 63) - 1))
BOUND = 2.0**100
floats = st.floats(-BOUND, BOUND, width=32)


def fixed(kind: st.SearchStrategy[Any], n: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(kind, min_size=n, max_size=n).map(tuple)


def some(kind: st.SearchStrategy[Any], most: int = 12) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(kind, max_size=most).map(tuple)


windows = some(st.one_of(st.just(0.0), st.floats(0, BOUND, width=32)), 40).map(
    lambda values: np.array(values, dtype=np.float32)
)
examples = st.builds(ProfileExample, st.integers(0, 4), counts, counts, counts, windows)
profiles = st.builds(
    LatentProfile,
    latent=counts,
    n_fired=counts,
    maximum=floats,
    mean=floats,
    quantiles=fixed(floats, len(QUANTILES)),
    histogram=fixed(counts, HISTOGRAM_BINS),
    n_first=counts,
    n_special=counts,
    cofiring=some(st.tuples(counts, counts)),
    examples=some(examples),
    promoted=some(st.tuples(counts, floats)),
    suppressed=some(st.tuples(counts, floats)),
    logit_histogram=some(counts, 60),
    logit_range=st.tuples(floats, floats),
    s_in=st.none() | floats,
    s_out=st.none() | floats,
)


def plain(profile: LatentProfile) -> LatentProfile:
    """The profile with tuples for arrays, so that profiles can be compared."""
    return replace(
        profile,
        examples=tuple(
            replace(example, activations=tuple(example.activations.tolist()))  # type: ignore[arg-type]
            for example in profile.examples
        ),
    )


def make_profile(**changes: Any) -> LatentProfile:
    """A latent with 20 examples of 25 tokens, of which it fires on 4."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(20):
        activations = np.zeros(25, dtype=np.float32)
        activations[rng.choice(25, 4, replace=False)] = rng.lognormal(size=4)
        found.append(ProfileExample(number % 5, 1000 * number, 140, 128, activations))
    profile = LatentProfile(
        latent=70_000,
        n_fired=5000,
        maximum=12.5,
        mean=0.5,
        quantiles=(0.25, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0),
        histogram=tuple(range(HISTOGRAM_BINS)),
        n_first=3,
        n_special=0,
        cofiring=((5, 400), (6, 300)),
        examples=tuple(found),
        promoted=((48_000, 2.5), (3, 2.25)),
        suppressed=((7, -2.5),),
        logit_histogram=(1, 70_000, 3),
        logit_range=(-2.5, 2.5),
    )
    return replace(profile, **changes)


@given(profiles)
@settings(max_examples=200, deadline=None)
def test_a_profile_comes_back_as_it_was(profile: LatentProfile) -> None:
    unpacked = unpack_profile(pack_profile(profile))
    assert plain(unpacked) == plain(profile)
    assert all(example.activations.dtype == np.float32 for example in unpacked.examples)


@given(st.lists(st.floats(1 / BOUND, BOUND, width=32), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_stored_activation_loses_nothing_in_a_profile(values: list[float]) -> None:
    row = np.array([len(values)])
    indices = np.arange(len(values))
    stored = unpack_activations(pack_activations(row, indices, np.array(values), 64))[2]
    profile = make_profile(examples=(ProfileExample(0, 0, 0, 0, stored),))
    (example,) = unpack_profile(pack_profile(profile)).examples
    assert example.activations.tobytes() == stored.tobytes()


def test_twenty_examples_take_about_five_hundred_bytes() -> None:
    profile = make_profile()
    without = pack_profile(replace(profile, examples=()))
    assert len(pack_profile(profile)) - len(without) <= 600
    assert len(without) <= 300


def test_numbers_are_kept_to_the_precision_of_float32() -> None:
    unpacked = unpack_profile(pack_profile(make_profile(mean=0.1, s_in=0.0)))
    assert unpacked.mean == float(np.float32(0.1))
    assert unpacked.s_in == 0.0
    assert unpacked.s_out is None


@pytest.mark.parametrize(
    "changes",
    [
        {"quantiles": (1.0,) * 6},
        {"histogram": (0,) * 31},
        {"mean": float("nan")},
        {"maximum": 1e300},
        {"n_fired": -1},
        {"n_fired": 1 << 64},
        {"s_out": float("inf")},
        {"promoted": ((1, float("nan")),)},
        {"examples": (ProfileExample(5, 0, 0, 0, np.zeros(1, np.float32)),)},
        {"examples": (ProfileExample(-1, 0, 0, 0, np.zeros(1, np.float32)),)},
        {"examples": (ProfileExample(0, 0, 0, 0, np.full(1, np.nan, np.float32)),)},
        {"examples": (ProfileExample(0, 0, 0, 0, np.zeros((1 << 20) + 1, np.float32)),)},
    ],
)
def test_what_a_profile_cannot_have_is_refused_in_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match=r"^The profile of latent 70000 .*compute it again\.$"):
        pack_profile(make_profile(**changes))


def test_every_cut_and_every_longer_profile_is_refused() -> None:
    payload = pack_profile(make_profile())
    for length in range(len(payload)):
        with pytest.raises(StorageError):
            unpack_profile(payload[:length])
    with pytest.raises(StorageError, match="damaged"):
        unpack_profile(payload + b"\0")
    with pytest.raises(StorageError, match="another version"):
        unpack_profile(b"\2" + payload[1:])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_profile_is_a_profile_or_refused(data: st.DataObject) -> None:
    payload = bytearray(pack_profile(make_profile()))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(1, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = unpack_profile(bytes(payload))
    except StorageError:
        return
    assert plain(unpack_profile(pack_profile(found))) == plain(found)
