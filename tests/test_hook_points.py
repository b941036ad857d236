"""Hook points: names, finding the blocks, and hooks that never outlive their use."""

import pytest
import torch
from torch import Tensor, nn

from saif_core.errors import HookPointError, ModelError
from saif_core.models.hook_points import (
    block_of,
    capture_resid,
    edit_resid,
    elsewhere,
    find_blocks,
    find_final_norm,
    hook_point_name,
    parse_hook_point,
)


class Block(nn.Module):
    """Adds ``step``; older families return a tuple that starts with the residual stream."""

    def __init__(self, step: float, *, as_tuple: bool) -> None:
        super().__init__()
        self.step, self.as_tuple, self.n_calls = step, as_tuple, 0

    def forward(self, resid: Tensor) -> Tensor | tuple[Tensor, str]:
        self.n_calls += 1
        out = resid + self.step
        return (out, "weights") if self.as_tuple else out


class Decoder(nn.Module):
    def __init__(self, *, as_tuple: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(10.0**i, as_tuple=as_tuple) for i in range(3))

    def forward(self, resid: Tensor) -> Tensor:
        for block in self.layers:
            out = block(resid)
            if isinstance(out, tuple):
                assert out[1] == "weights"
            resid = out[0] if isinstance(out, tuple) else out
        return resid


@pytest.fixture(params=[False, True], ids=["tensor", "tuple"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return Decoder(as_tuple=request.param)


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def run(decoder: Decoder) -> Tensor:
    resid: Tensor = decoder(torch.zeros(1, 2, 4))
    return resid


def test_names_and_layers_are_inverse() -> None:
    assert [parse_hook_point(hook_point_name(layer)) for layer in (0, 7, 12)] == [0, 7, 12]
    assert hook_point_name(3) == "blocks.3.hook_resid_post"


def test_before_a_block_is_after_the_one_below() -> None:
    assert parse_hook_point("blocks.8.hook_resid_pre") == 7
    assert parse_hook_point("blocks.1.hook_resid_pre", n_layers=2) == 0
    with pytest.raises(HookPointError, match="asks for block 2"):
        parse_hook_point("blocks.2.hook_resid_pre", n_layers=2)


@pytest.mark.parametrize(
    ("name", "block", "words"),
    [
        ("blocks.5.hook_resid_post", 5, ""),
        ("blocks.5.hook_resid_pre", 4, ""),
        ("blocks.5.hook_resid_mid", 5, "between attention and MLP"),
        ("blocks.5.hook_mlp_out", 5, "output of an MLP"),
        ("blocks.5.ln2.hook_normalized", 5, "input of an MLP"),
        ("blocks.5.attn.hook_z", 5, "attention heads"),
        ("blocks.0.hook_resid_pre", None, "embedding"),
        ("hook_embed", None, "embedding"),
        ("model.layers.5", None, "unknown"),
    ],
)
def test_what_a_hook_point_reads_is_told(name: str, block: int | None, words: str) -> None:
    assert block_of(name) == block
    assert words in elsewhere(name)
    assert bool(words) == bool(elsewhere(name))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blocks.0.hook_resid_pre",
        "hook_embed",
        "blocks.1.hook_mlp_out",
        "blocks.-1.hook_resid_post",
        "blocks.1.hook_resid_post.",
        " blocks.1.hook_resid_post",
        "blocks.1.hook_resid_post\n",
        "blocks.1xhook_resid_post",
    ],
)
def test_other_hook_points_are_refused(name: str) -> None:
    with pytest.raises(HookPointError, match="named 'blocks.<layer>.hook_resid_post'"):
        parse_hook_point(name)


def test_layer_beyond_the_model_is_refused() -> None:
    assert parse_hook_point("blocks.1.hook_resid_post", n_layers=2) == 1
    with pytest.raises(HookPointError, match="asks for block 2, but the model has blocks 0 to 1"):
        parse_hook_point("blocks.2.hook_resid_post", n_layers=2)


def test_blocks_are_the_list_as_long_as_the_model_is_deep(decoder: Decoder) -> None:
    assert find_blocks(decoder, 3) is decoder.layers
    with pytest.raises(ModelError, match="No list of 4 blocks was found in Decoder"):
        find_blocks(decoder, 4)


def test_final_norm_is_found_under_its_usual_names() -> None:
    for name in ("norm", "ln_f", "final_layer_norm"):
        model = nn.Module()
        norm = nn.LayerNorm(4)
        setattr(model, name, norm)
        assert find_final_norm(model) is norm
    with pytest.raises(ModelError, match="No final norm was found in Module"):
        find_final_norm(nn.Module())


def test_capture_returns_the_output_of_each_block(decoder: Decoder) -> None:
    with capture_resid(decoder.layers, [1, 0, 1]) as captured:
        run(decoder)
    assert sorted(captured) == [0, 1]
    torch.testing.assert_close(captured[0], torch.full((1, 2, 4), 1.0))
    torch.testing.assert_close(captured[1], torch.full((1, 2, 4), 11.0))


def test_blocks_above_the_deepest_one_do_not_run(decoder: Decoder) -> None:
    with capture_resid(decoder.layers, [0, 1]):
        run(decoder)
    assert [block.n_calls for block in decoder.layers] == [1, 1, 0]
    with capture_resid(decoder.layers, [0], stop=False) as captured:
        output = run(decoder)
    assert [block.n_calls for block in decoder.layers] == [2, 2, 1]
    torch.testing.assert_close(output, torch.full((1, 2, 4), 111.0))
    assert sorted(captured) == [0]


def test_edit_replaces_the_residual_stream_for_the_blocks_above(decoder: Decoder) -> None:
    with edit_resid(decoder.layers[1], lambda resid: resid * 2):
        output = run(decoder)
    torch.testing.assert_close(output, torch.full((1, 2, 4), 122.0))
    torch.testing.assert_close(run(decoder), torch.full((1, 2, 4), 111.0))


def test_edit_and_capture_see_the_same_stream(decoder: Decoder) -> None:
    with (
        edit_resid(decoder.layers[0], lambda resid: resid + 5),
        capture_resid(decoder.layers, [0]) as captured,
    ):
        run(decoder)
    torch.testing.assert_close(captured[0], torch.full((1, 2, 4), 6.0))


def test_hooks_are_removed_when_the_forward_pass_fails(decoder: Decoder) -> None:
    def fail(resid: Tensor) -> Tensor:
        raise RuntimeError(f"cannot use {tuple(resid.shape)}")

    with pytest.raises(RuntimeError, match="cannot use"), edit_resid(decoder.layers[1], fail):
        run(decoder)
    assert n_hooks(decoder) == 0
    with (
        pytest.raises(RuntimeError, match="size of tensor"),
        capture_resid(decoder.layers, [0, 2]),
        edit_resid(decoder.layers[0], lambda resid: resid + torch.zeros(9)),
    ):
        run(decoder)
    assert n_hooks(decoder) == 0


def test_capture_of_a_missing_layer_leaves_no_hook(decoder: Decoder) -> None:
    with pytest.raises(IndexError), capture_resid(decoder.layers, [0, 9]):
        run(decoder)
    assert n_hooks(decoder) == 0
