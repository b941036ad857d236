"""Steering vectors as files, read with care and written."""

import io
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.inputs.text_files import short_name


def vector_file(vector: Sequence[float]) -> bytes:
    """A vector as a .safetensors file that ``read_vector`` reads."""
    return safetensors.torch.save({"vector": torch.tensor(vector, dtype=torch.float32)})


def read_vector(name: str, data: bytes, d_model: int) -> Float[Tensor, " d_model"]:
    """The vector in an uploaded .npy or .safetensors file, as float32.

    Args:
        name: the file's name; its ending decides how it is read.
        data: the file; a .safetensors file holds one tensor, or one called "vector".
        d_model: size that the vector has to have.

    Raises:
        SteeringError: it is no such file, or the vector has another size or type, or a value that
            is not finite.
    """
    source = short_name(name)
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors}
    reader = readers.get(PurePath(name).suffix.lower())
    if reader is None:
        raise SteeringError(f"{source}: this kind of file is not known; use .npy or .safetensors.")
    vector = reader(source, data, d_model)
    if not bool(torch.isfinite(vector).all()):
        raise SteeringError(
            f"{source}: the vector holds values that are not finite in float32; save it again "
            "without NaN and infinity."
        )
    return vector


def read_vector_array(name: str, data: bytes, d_model: int) -> Float32[np.ndarray, " d_model"]:
    """The vector in an uploaded file as ``read_vector`` reads it, ready for a store of tensors.

    Raises:
        SteeringError: see ``read_vector``.
    """
    return read_vector(name, data, d_model).numpy()


def _read_npy(source: str, data: bytes, d_model: int) -> Tensor:
    stream = io.BytesIO(data)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        # Shape and type first, so that a header cannot ask for more memory than the file has.
        shape, _, dtype = headers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # a header is Python source, which fails in many ways
        raise _unreadable(source, ".npy") from error
    _check_kind(source, shape, dtype.kind == "f", str(dtype), d_model)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError) as error:
        raise _unreadable(source, ".npy") from error
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(np.float32))


def _read_safetensors(source: str, data: bytes, d_model: int) -> Tensor:
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # safetensors raises its own, and KeyError for types torch lacks
        raise _unreadable(source, ".safetensors") from error
    if "vector" in tensors:
        tensor = tensors["vector"]
    elif len(tensors) == 1:
        (tensor,) = tensors.values()
    else:
        raise SteeringError(
            f"{source}: there are {len(tensors)} tensors and none is called 'vector'; save the "
            "vector alone or under that name."
        )
    is_float = tensor.is_floating_point()
    _check_kind(source, tuple(tensor.shape), is_float, str(tensor.dtype), d_model)
    return tensor.float()


def _check_kind(
    source: str, shape: tuple[int, ...], is_float: bool, dtype: str, d_model: int
) -> None:
    if shape != (d_model,):
        raise SteeringError(
            f"{source}: the vector has shape {list(shape)!s:.60}, but the residual stream needs "
            f"[{d_model}]; save one vector made for this model."
        )
    if not is_float:
        raise SteeringError(
            f"{source}: the vector's numbers are of type {dtype:.40}; save them as float32."
        )


def _unreadable(source: str, kind: str) -> SteeringError:
    return SteeringError(
        f"{source}: this cannot be read as a {kind} file; save the vector again in that format."
    )
