"""Hook points: where the residual stream is read and written; every hook of SAIF lives here.

The only supported point is ``blocks.{layer}.hook_resid_post``: the output of block ``layer``
(0-based), taken from the block itself. ``blocks.{layer + 1}.hook_resid_pre`` is another name of it.
``output_hidden_states`` is never used, because its last entry is taken after the final norm.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saif_core.errors import HookPointError, ModelError

_PATTERN = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_EMBEDDING = "the embedding, before the first block"
# What other hook points read, by the end of their names.
_ELSEWHERE = {
    "hook_embed": _EMBEDDING,
    "blocks.0.hook_resid_pre": _EMBEDDING,
    "hook_resid_mid": "the residual stream between attention and MLP",
    "hook_mlp_in": "the input of an MLP",
    "mlp.hook_in": "the input of an MLP",
    "ln2.hook_normalized": "the input of an MLP",
    "hook_mlp_out": "the output of an MLP",
    "hook_attn_out": "the output of an attention layer",
    "hook_z": "the attention heads of a block",
}
_NORM_NAMES = (
    "norm",
    "ln_f",
    "norm_f",
    "final_norm",
    "final_layer_norm",
    "final_layernorm",
    "embedding_norm",
    "layer_norm",
)


class StopForward(Exception):
    """Ends a forward pass after the last block that is needed; never leaves this package."""


# How many forward passes of this thread are paused: hooks of a paused pass leave others alone.
_paused = threading.local()


def _level() -> int:
    level: int = getattr(_paused, "level", 0)
    return level


def hook_point_name(layer: int) -> str:
    """Name of the residual stream after block ``layer``."""
    return f"blocks.{layer}.hook_resid_post"


def elsewhere(name: str) -> str:
    """In words, what a hook point reads that is no residual stream after a block; else ""."""
    if _PATTERN.fullmatch(name) and name != "blocks.0.hook_resid_pre":
        return ""
    known = (words for ending, words in _ELSEWHERE.items() if name.endswith(ending))
    return next(known, "an unknown place")


def parse_hook_point(name: str, n_layers: int | None = None) -> int:
    """Layer of a hook point name: the block after which the residual stream is meant.

    Raises:
        HookPointError: the name is not a residual stream after a block, or the layer is missing.
    """
    match = _PATTERN.fullmatch(name)
    if match is None or elsewhere(name):
        raise HookPointError(
            f"Hook point {name!r} is not supported, as it is {elsewhere(name)}: SAIF reads and "
            "writes the residual stream after a block, named 'blocks.<layer>.hook_resid_post'."
        )
    block = int(match[1])
    if n_layers is not None and block >= n_layers:
        raise HookPointError(
            f"Hook point {name!r} asks for block {block}, but the model has blocks 0 to "
            f"{n_layers - 1}; choose one of these."
        )
    return block if match[2] == "post" else block - 1


def block_of(name: str) -> int | None:
    """Block after which a hook point reads, or which it lies in; None for what is before them."""
    if not elsewhere(name):
        return parse_hook_point(name)
    match = _BLOCK.match(name)
    return None if match is None or elsewhere(name) == _EMBEDDING else int(match[1])


def find_blocks(model: nn.Module, n_layers: int) -> nn.ModuleList:
    """The transformer blocks of any decoder: the one module list as long as the model is deep."""
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not found:
        raise ModelError(
            f"No list of {n_layers} blocks was found in {type(model).__name__}; "
            "choose a decoder-only model."
        )
    return found[0]


def find_final_norm(base_model: nn.Module) -> nn.Module:
    """The norm between the last block and the unembedding.

    Raises:
        ModelError: none of the usual attribute names is present.
    """
    for name in _NORM_NAMES:
        module = getattr(base_model, name, None)
        if isinstance(module, nn.Module):
            return module
    raise ModelError(
        f"No final norm was found in {type(base_model).__name__}: looked for "
        f"{', '.join(_NORM_NAMES)}; choose a decoder-only model."
    )


@contextmanager
def capture_resid(
    blocks: nn.ModuleList, layers: Sequence[int], *, stop: bool = True
) -> Iterator[dict[int, Tensor]]:
    """Collect the residual stream (batch, pos, d_model) after each of ``layers``.

    With ``stop`` the forward pass ends after the deepest one: layers above it are not run.
    """
    captured: dict[int, Tensor] = {}
    deepest, level = max(layers), _level()

    def hook_for(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if _level() != level:
                return
            captured[layer] = _resid_of(output)
            if stop and layer == deepest:
                raise StopForward

        return hook

    hooked = [(blocks[layer], hook_for(layer)) for layer in sorted(set(layers))]
    handles = [block.register_forward_hook(hook) for block, hook in hooked]
    try:
        yield captured
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def edit_resid(block: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the residual stream after ``block`` by ``edit`` of it while the context is open."""
    level = _level()

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if _level() != level:
            return output
        edited = edit(_resid_of(output))
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def pause_for(
    blocks: nn.ModuleList, waits: Callable[[], bool], serve: Callable[[], None]
) -> Iterator[None]:
    """Before every block of a forward pass, pause it to ``serve`` if ``waits`` is true.

    What is served may run the same model: hooks of the paused pass do not see it.
    """
    level = _level()

    def hook(_module: nn.Module, _args: Any) -> None:
        if _level() == level and waits():
            serve_aside(serve)

    handles = [block.register_forward_pre_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def serve_aside(serve: Callable[[], None]) -> None:
    """Run something that hooks of the passes under way do not see."""
    level = _level()
    _paused.level = level + 1
    try:
        serve()
    finally:
        _paused.level = level


def _resid_of(output: Any) -> Tensor:
    # Blocks return a tensor or, in older families, a tuple that starts with it.
    resid = output[0] if isinstance(output, tuple) else output
    assert isinstance(resid, torch.Tensor)
    return resid
