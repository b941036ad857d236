"""Every SAE of sae-lens's table: its layer and hook point, or why it cannot be used; no network."""

import subprocess
import sys
from collections import Counter
from typing import Any, NoReturn

import pytest

from saif_core.errors import SaeMismatchError, UnknownNameError
from saif_core.saes.releases import (
    check_published,
    describe_published,
    published_saes,
    read_releases,
)

# Converters whose configuration sae-lens makes from the names alone, or from the hub as well.
TOLD_BY_NAMES = {"gemma_2", "gemma_2_transcoder", "goodfire", "deepseek_r1", "qwen_scope"}


def test_every_entry_has_a_layer_and_a_hook_point_or_a_reason() -> None:
    infos = published_saes()
    assert len(infos) == sum(len(release.paths) for release in read_releases().values()) > 13_000
    for info in infos:
        assert info.layer is None or info.layer >= 0
        assert info.d_sae is None or info.d_sae >= 512
        if info.unsupported:
            assert info.unsupported.startswith("It ")
            assert info.unsupported.endswith(".")
        else:
            assert info.layer is not None
            assert info.hook_point in (
                f"blocks.{info.layer}.hook_resid_post",
                f"blocks.{info.layer + 1}.hook_resid_pre",
            )


@pytest.mark.parametrize(
    ("id", "hook_point", "layer", "d_sae", "reason"),
    [
        (
            "gemma-scope-2b-pt-res-canonical:layer_20/width_16k/canonical",
            "blocks.20.hook_resid_post",
            20,
            16384,
            "",
        ),
        (
            "gemma-scope-2b-pt-res:embedding/width_4k/average_l0_6",
            "hook_embed",
            None,
            4096,
            "embedding",
        ),
        (
            "gemma-scope-9b-pt-att:layer_7/width_131k/average_l0_52",
            "blocks.7.attn.hook_z",
            7,
            131072,
            "attention heads",
        ),
        (
            "gemma-scope-2-1b-it-res:layer_13_width_65k_l0_medium",
            "blocks.13.hook_resid_post",
            13,
            65536,
            "",
        ),
        (
            "gemma-scope-2-4b-pt-mlp-all:layer_0_width_262k_l0_big",
            "blocks.0.hook_mlp_out",
            0,
            262144,
            "output of an MLP",
        ),
        (
            "gemma-scope-2-4b-pt-transcoders-all:layer_10_width_16k_l0_big_affine",
            "blocks.10.hook_mlp_in",
            10,
            16384,
            "transcoder",
        ),
        ("gpt2-small-res-jb:blocks.8.hook_resid_pre", "blocks.8.hook_resid_pre", 7, None, ""),
        (
            "gpt2-small-res-jb:blocks.0.hook_resid_pre",
            "blocks.0.hook_resid_pre",
            None,
            None,
            "embedding",
        ),
        (
            "gpt2-small-res-jb-feature-splitting:blocks.8.hook_resid_pre_6144",
            "blocks.8.hook_resid_pre",
            7,
            6144,
            "",
        ),
        (
            "gpt2-small-resid-mid-v5-128k:blocks.4.hook_resid_mid",
            "blocks.4.hook_resid_mid",
            4,
            131072,
            "between attention and MLP",
        ),
        (
            "gpt2-small-hook-z-kk:blocks.3.hook_z",
            "blocks.3.attn.hook_z",
            3,
            24576,
            "attention heads",
        ),
        ("llama_scope_lxr_8x:l31r_8x", "blocks.31.hook_resid_post", 31, 32768, ""),
        ("llama_scope_lxm_32x:l0m_32x", "blocks.0.hook_mlp_out", 0, 131072, "output of an MLP"),
        (
            "llama_scope_r1_distill:l5r_800m_slimpajama",
            "blocks.5.hook_resid_post",
            5,
            32768,
            "",
        ),
        (
            "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109:"
            "blocks.19.hook_resid_post__trainer_3_step_0",
            "blocks.19.hook_resid_post",
            19,
            4096,
            "",
        ),
        (
            "llama-3.1-8b-instruct-andyrdt:resid_post_layer_11_trainer_1",
            "blocks.11.hook_resid_post",
            11,
            None,
            "",
        ),
        ("qwen-scope-3.5-27b-w80k-l50:layer63", "blocks.63.hook_resid_post", 63, 81920, ""),
        (
            "goodfire-llama-3.3-70b-instruct:layer_50",
            "blocks.50.hook_resid_post",
            50,
            None,
            "",
        ),
        ("mwhanna-qwen3-4b-transcoders:layer_9", "blocks.9.mlp.hook_in", 9, None, "transcoder"),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer:layer_3", "", 3, None, "transcoder"),
        (
            "temporal-sae-gemma-2-2b:blocks.12.hook_resid_post",
            "blocks.12.hook_resid_post",
            12,
            None,
            "temporal",
        ),
        ("someone/some-saes:blocks.4.hook_resid_post", "blocks.4.hook_resid_post", 4, None, ""),
        ("someone/some-saes:best", "", None, None, "not known before it is loaded"),
    ],
)
def test_known_entries(
    id: str, hook_point: str, layer: int | None, d_sae: int | None, reason: str
) -> None:
    info = describe_published(id)
    assert (info.id, info.hook_point, info.layer, info.d_sae) == (id, hook_point, layer, d_sae)
    assert reason in info.unsupported
    assert bool(reason) == bool(info.unsupported)


def test_what_is_left_out_and_why() -> None:
    reasons = Counter(info.unsupported.partition(";")[0] for info in published_saes())
    assert reasons[""] > 4_700
    assert reasons["It is a transcoder, which reads one place of the model and writes another"] > (
        3_700
    )
    assert reasons["It reads the output of an MLP"] > 2_500
    assert reasons["It reads the attention heads of a block"] > 2_400
    assert 8 <= len(reasons) <= 10


def test_hook_points_and_widths_are_those_of_the_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """As sae-lens makes them itself, wherever it needs no more than names, or no more for these."""
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def refuse(*_args: Any, **_options: Any) -> NoReturn:
        raise EntryNotFoundError("not asked")

    shapes = {"w_enc": [8, 16], "w_dec": [16, 8]}
    monkeypatch.setattr(loaders, "hf_hub_download", refuse)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    n_compared = 0
    for name, release in read_releases().items():
        if release.converter not in TOLD_BY_NAMES | {"gemma_3"}:
            continue
        config_of = loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[release.converter]
        for sae_id, path in release.paths.items():
            config = config_of(release.repo_id, path, "cpu", False, None)
            info = describe_published(f"{name}:{sae_id}")
            assert info.hook_point == config["hook_name"]
            assert info.model_id.split("/")[-1] == config["model_name"].split("/")[-1]
            assert ("transcoder" in config["architecture"]) == ("transcoder" in info.unsupported)
            if release.converter in TOLD_BY_NAMES and info.d_sae:
                assert info.d_sae == config["d_sae"]
            n_compared += 1
    assert n_compared > 12_000


def test_the_table_is_read_as_sae_lens_reads_it() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    ours = {name: (r.repo_id, r.converter, dict(r.paths)) for name, r in read_releases().items()}
    assert ours == {
        name: (entry.repo_id, entry.conversion_func or "", entry.saes_map)
        for name, entry in directory.items()
    }


def test_listing_does_not_wait_for_sae_lens() -> None:
    code = (
        "import sys; from saif_core.saes.releases import published_saes; "
        "assert published_saes(); sys.exit('sae_lens' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_refused_with_those_alike() -> None:
    with pytest.raises(UnknownNameError, match="gemma-scope-2b-pt-att"):
        describe_published("gemma-scope-2b:layer_1")
    with pytest.raises(UnknownNameError, match="blocks.0.hook_resid_pre"):
        check_published("gpt2-small-res-jb:blocks.99.hook_resid_pre")


def test_what_only_loading_tells_is_not_refused_before() -> None:
    check_published("someone/some-saes:best")
    with pytest.raises(SaeMismatchError, match="cannot be used: it is a transcoder"):
        check_published("mwhanna-qwen3-4b-transcoders:layer_9")
