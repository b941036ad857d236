"""Signed pursuit on planted sums, encodings against their definition, and files of vectors."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.explaining.decompose import encoding_difference, naive_encoding, pursue
from saif_core.finding.vector_files import read_vector
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.steering import Edit
from saif_core.saes.loaded_sae import LoadedSae, load_sae_folder
from saif_core.steering.target import build_target
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


@pytest.fixture(scope="module")
def sae(tiny_sae_dir: Path, model: LoadedModel) -> LoadedSae:
    return load_sae_folder(tiny_sae_dir, id="tiny-sae", model=model)


@pytest.fixture(scope="module")
def resid(tiny_model_dir: Path) -> Tensor:
    rows: Tensor = tiny.read_plain(tiny_model_dir, tiny.contents(30), layer=1)
    return rows


def random_rows(n: int, d_model: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_pursuit_finds_planted_atoms_of_both_signs() -> None:
    decoder = random_rows(400, 64)
    planted = {31: 4.0, 7: -2.5, 200: 1.0}
    vector = sum(coefficient * decoder[index] for index, coefficient in planted.items())
    found = pursue(decoder, vector, 10)
    assert {a.index: pytest.approx(a.coefficient, rel=1e-4) for a in found.atoms} == planted
    assert [a.index for a in found.atoms][0] == 31
    assert found.explained[-1] == pytest.approx(1.0)
    assert len(found.atoms) == len(found.explained) == 3  # nothing was left for a fourth


def test_each_step_takes_the_largest_cosine_and_refits() -> None:
    decoder, vector = random_rows(30, 8), random_rows(1, 8, seed=1)[0]
    decoder *= torch.linspace(0.01, 50, 30)[:, None]  # norms must not decide
    found = pursue(decoder, vector, 4)
    chosen: list[int] = []
    left = vector
    for atom, explained in zip(found.atoms, found.explained, strict=True):
        cosines = torch.nn.functional.cosine_similarity(decoder, left[None]).abs()
        assert atom.index == int(cosines.argmax())
        chosen.append(atom.index)
        basis = torch.linalg.qr(decoder[chosen].T).Q
        approximation = basis @ (basis.T @ vector)
        left = vector - approximation
        share = float(approximation.norm() ** 2 / vector.norm() ** 2)
        assert explained == pytest.approx(share, rel=1e-4)
    assert all(b > a for a, b in itertools.pairwise(found.explained))


def test_atoms_are_a_steering_vector_of_the_explained_norm(sae: LoadedSae) -> None:
    vector = random_rows(1, tiny.D_MODEL, seed=2)[0]
    found = pursue(sae.W_dec, vector, 5)
    edit = Edit(sae.layer, sae_id=sae.id, latents=found.atoms)
    again = build_target(edit, sae, {}, tiny.D_MODEL).direction
    assert float((again / vector.norm()).norm() ** 2) == pytest.approx(
        found.explained[-1], rel=1e-4
    )
    assert any(atom.coefficient < 0 for atom in pursue(sae.W_dec, -sae.W_dec[7], 1).atoms)


def test_no_more_atoms_than_directions_and_none_for_a_zero_vector() -> None:
    vector = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = pursue(torch.eye(4)[:2], vector, 9)
    assert sorted(atom.index for atom in found.atoms) == [0, 1]
    assert found.explained[-1] == pytest.approx(5 / 30)
    with pytest.raises(SteeringError, match="zero everywhere"):
        pursue(torch.eye(4), torch.zeros(4), 2)


def test_naive_encoding_of_a_short_vector_is_that_of_nothing(sae: LoadedSae, resid: Tensor) -> None:
    median = float(resid.norm(dim=-1).median())
    short = 1e-3 * sae.W_dec[3]
    found = naive_encoding(sae, short, 5, median_resid_norm=median)
    expected = sae.encode(torch.zeros(1, tiny.D_MODEL))[0].topk(5)
    assert [latent.index for latent in found.top_of_zero] == expected.indices.tolist()
    assert [a.coefficient for a in found.top_of_zero] == pytest.approx(expected.values.tolist())
    assert found.overlap == 1.0
    assert found.norm_share == pytest.approx(1e-3 / median, rel=1e-4)


def test_naive_encoding_of_a_residual_stream_differs(sae: LoadedSae, resid: Tensor) -> None:
    row = resid[5]
    found = naive_encoding(sae, row, 5, median_resid_norm=2 * float(row.norm()))
    top, zero = ({latent.index for latent in part} for part in (found.top, found.top_of_zero))
    assert found.overlap == len(top & zero) / 5
    assert found.overlap < 1
    assert found.norm_share == pytest.approx(0.5)


def test_only_latents_that_fire_are_compared(
    sae: LoadedSae, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(rows: Tensor) -> Tensor:
        # What dividing a zero vector by its own norm comes to.
        dense = torch.zeros(len(rows), tiny.D_SAE)
        dense[rows.norm(dim=-1) == 0] = torch.nan
        return dense

    monkeypatch.setattr(sae, "encode", encode)
    found = naive_encoding(sae, torch.ones(tiny.D_MODEL), 5, median_resid_norm=1.0)
    assert found.top == found.top_of_zero == ()
    assert found.overlap is None


def test_encoding_difference_is_the_mean_over_rows(sae: LoadedSae, resid: Tensor) -> None:
    assert len(resid) > 128  # several blocks of rows
    vector = 3.0 * sae.W_dec[7]
    expected = torch.stack(
        [sae.encode((row + vector)[None])[0] - sae.encode(row[None])[0] for row in resid]
    ).mean(0)
    found = encoding_difference(sae, resid, vector)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # The plant is in no text, so all of it but the bias shows.
    assert int(found.argmax()) == tiny.PLANTED_LATENT
    assert float(found[7]) == pytest.approx(2.75, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_npy_vectors_are_read(dtype: str) -> None:
    values = np.array([1.5, -2.0, 0.25], dtype=dtype)
    found = read_vector("folder/Vector.NPY", npy(values), 3)
    assert found.dtype == torch.float32
    assert found.tolist() == [1.5, -2.0, 0.25]


@pytest.mark.parametrize("names", [("anything",), ("other", "vector")])
def test_safetensors_vectors_are_read(names: tuple[str, ...]) -> None:
    tensors = {
        name: torch.full((3,), float(i), dtype=torch.bfloat16) for i, name in enumerate(names)
    }
    found = read_vector("v.safetensors", safetensors.torch.save(tensors), 3)
    assert found.dtype == torch.float32
    assert found.tolist() == [len(names) - 1.0] * 3


GOOD = npy(np.ones(3, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("v.pt", GOOD, "use .npy or .safetensors"),
        ("v.npy", b"", "cannot be read as a .npy"),
        ("v.npy", b"PK\x03\x04" + bytes(40), "cannot be read as a .npy"),
        ("v.npy", GOOD[:-1], "cannot be read as a .npy"),
        ("v.npy", GOOD.replace(b"(3,), }", b"(3,,),}"), "cannot be read as a .npy"),
        ("v.npy", npy(np.ones(4, dtype=np.float32)), r"has shape \[4\].* needs \[3\]"),
        ("v.npy", npy(np.ones((1, 3))), r"has shape \[1, 3\]"),
        ("v.npy", npy(np.array([1, 2, 3])), "of type int64"),
        ("v.npy", npy(np.array([{}, 1, 2], dtype=object)), "of type object"),
        ("v.npy", npy(np.array([1, np.nan, 3])), "not finite"),
        ("v.npy", npy(np.array([1, 1e300, 3])), "not finite"),
        ("v.safetensors", b"", "cannot be read as a .safetensors"),
        ("v.safetensors", b"\xff" * 64, "cannot be read as a .safetensors"),
        (
            "v.safetensors",
            safetensors.torch.save({"a": torch.ones(3), "b": torch.ones(3)}),
            "2 tensors and none is called 'vector'",
        ),
        ("v.safetensors", safetensors.torch.save({}), "0 tensors"),
        ("v.safetensors", safetensors.torch.save({"a": torch.ones(5)}), r"has shape \[5\]"),
        ("v.safetensors", safetensors.torch.save({"a": torch.arange(3)}), "int64"),
        (
            "v.safetensors",
            safetensors.torch.save({"a": torch.tensor([1.0, torch.inf, 0.0])}),
            "not finite",
        ),
    ],
)
def test_a_file_that_is_no_such_vector_is_refused_in_one_sentence(
    name: str, data: bytes, words: str
) -> None:
    with pytest.raises(SteeringError, match=words) as raised:
        read_vector(name, data, 3)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{name}: ")


def test_a_header_that_asks_for_terabytes_is_refused() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (900000000000,), }"
    header = header.ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12)
    with pytest.raises(SteeringError, match=r"has shape \[900000000000\]"):
        read_vector("v.npy", data, 3)


@given(st.binary(max_size=40), st.integers(0, len(GOOD)))
def test_damaged_files_end_in_our_error_or_a_vector(damage: bytes, where: int) -> None:
    for name in ("v.npy", "v.safetensors"):
        for data in (damage, GOOD[:where] + damage + GOOD[where + len(damage) :]):
            try:
                assert read_vector(name, data, 3).shape == (3,)
            except SteeringError:
                pass
