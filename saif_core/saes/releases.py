"""Published SAEs: where each entry of sae-lens's table reads and how wide it is, before a download.

Releases name their SAEs in ways of their own, and sae-lens learns most hook points from files on
the hub. Here they follow from the table alone, by the rules of sae-lens's loaders.
Source: pretrained_saes.yaml and loading/pretrained_sae_loaders.py of sae-lens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from saif_core.errors import UnknownNameError
from saif_core.models.hook_points import block_of
from saif_core.records.saes import SaeInfo
from saif_core.saes.loaded_sae import check_supported, why_not_architecture, why_not_hook_point

_TABLE = "pretrained_saes.yaml"
_LISTED_IN_ERRORS = 10
# The table names the base model here, the loader the one that the SAEs were trained on.
_MODELS = {"gemma-scope-9b-it-res": "gemma-2-9b-it"}
# What SAEs of a converter read, where their names do not say it: the first pattern that is found
# in "repository/path" decides.
_PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "gemma_2": (
        ("-res/embedding", "hook_embed"),
        ("-res/", "hook_resid_post"),
        ("-mlp/", "hook_mlp_out"),
        ("-att/", "attn.hook_z"),
    ),
    "gemma_3": (
        ("/resid_post", "hook_resid_post"),
        ("/attn_out", "attn.hook_z"),
        ("/mlp_out", "hook_mlp_out"),
        ("/(transcoder|clt)", "hook_mlp_in"),
    ),
    "llama_scope": (
        (r"-L\d+R-", "hook_resid_post"),
        (r"-L\d+M-", "hook_mlp_out"),
        (r"-L\d+A-", "hook_attn_out"),
    ),
    "llama_scope_r1_distill": ((r"/L\d+R$", "hook_resid_post"),),
    "sparsify": (("/embed_tokens$", "hook_embed"), ("", "hook_resid_post")),
    "dictionary_learning_1": (("", "hook_resid_post"),),
    "goodfire": (("", "hook_resid_post"),),
    "qwen_scope": (("", "hook_resid_post"),),
    "gemma_2_transcoder": (("", "ln2.hook_normalized"),),
    "mwhanna_transcoder": (("", "mlp.hook_in"),),
}
_NAMED = re.compile(r"(blocks\.\d+\.)hook_(resid_pre|resid_mid|resid_post|mlp_out|attn_out|z)")
_LAYER = re.compile(r"(?:layers?[._]?|[-/][Ll])(\d+)")
_WIDTHS = (
    re.compile(r"(?:width_|-W|/v5_|llamascope-[a-z0-9-]+-)(\d+)([kKmM])"),
    re.compile(r"width-(2pow)(\d+)"),
    re.compile(r"(?:hook_resid_pre_|hook_resid_post_|hook_mlp_out_|_ds)(\d{3,})()"),
)


@dataclass(frozen=True)
class Release:
    """SAEs published together.

    Attributes:
        converter: what sae-lens reads them by; "" for its own format.
        paths: where each SAE is in the repository, by its id.
        pages: its page on Neuronpedia, where it has one, by its id.
    """

    name: str
    model_id: str
    repo_id: str
    converter: str
    paths: Mapping[str, str]
    pages: Mapping[str, str]


@cache
def read_releases() -> dict[str, Release]:
    """Every release that the installed sae-lens knows, by its name."""
    # Importing sae-lens takes seconds; its table alone does not.
    package = find_spec("sae_lens")
    assert package is not None
    assert package.origin is not None
    text = (Path(package.origin).parent / _TABLE).read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {name: _release(name, entry) for name, entry in table.items()}


def published_saes() -> list[SaeInfo]:
    """Every SAE of every release, whether SAIF can use it or not."""
    return [
        _describe(release, sae_id)
        for release in read_releases().values()
        for sae_id in release.paths
    ]


def describe_published(id: str) -> SaeInfo:
    """What is known of ``release:sae_id`` or ``owner/repository:folder`` before it is loaded.

    Raises:
        UnknownNameError: there is no such release, or no such SAE in it.
    """
    name, _, sae_id = id.partition(":")
    release = read_releases().get(name)
    if release is None and "/" in name:
        release = Release(name, "", name, "", {sae_id: sae_id}, {sae_id: ""})
    if release is None:
        alike = get_close_matches(name, read_releases(), n=_LISTED_IN_ERRORS)
        raise UnknownNameError("sae-lens release", name, alike)
    if sae_id not in release.paths:
        known = sorted(release.paths)[:_LISTED_IN_ERRORS]
        raise UnknownNameError(f"SAE in release {name}", sae_id, known)
    return _describe(release, sae_id)


def check_published(id: str) -> None:
    """Refuse what would be refused after its download; a repository's SAE shows only then.

    Raises:
        UnknownNameError: there is no such release, or no such SAE in it.
        SaeMismatchError: SAIF cannot use it.
    """
    if "/" not in id.partition(":")[0]:
        check_supported(describe_published(id).unsupported, id)


def _release(name: str, entry: Mapping[str, Any]) -> Release:
    saes = entry["saes"]
    return Release(
        name=name,
        model_id=_MODELS.get(name, entry["model"]),
        repo_id=entry["repo_id"],
        converter=entry.get("conversion_func") or "",
        paths={str(sae["id"]): str(sae["path"]) for sae in saes},
        pages={str(sae["id"]): sae.get("neuronpedia") or "" for sae in saes},
    )


def _describe(release: Release, sae_id: str) -> SaeInfo:
    hook_point = _hook_point(release, sae_id)
    return SaeInfo(
        id=f"{release.name}:{sae_id}",
        model_id=release.model_id,
        hook_point=hook_point,
        layer=block_of(hook_point) if hook_point else _layer(release, sae_id),
        d_sae=_width(release, sae_id),
        path=f"{release.repo_id}/{release.paths[sae_id]}",
        unsupported=why_not_architecture(_architecture(release, hook_point))
        or why_not_hook_point(hook_point),
    )


def _hook_point(release: Release, sae_id: str) -> str:
    if named := _NAMED.match(sae_id):
        return named[1] + ("attn.hook_z" if named[2] == "z" else f"hook_{named[2]}")
    path = f"{release.repo_id}/{release.paths[sae_id]}"
    places = _PLACES.get(release.converter, ())
    place = next((name for pattern, name in places if re.search(pattern, path)), "")
    layer = _layer(release, sae_id)
    if place == "hook_embed":
        return place
    return f"blocks.{layer}.{place}" if place and layer is not None else ""


def _layer(release: Release, sae_id: str) -> int | None:
    match = _LAYER.search(release.paths[sae_id]) or _LAYER.search(sae_id)
    return int(match[1]) if match else None


def _architecture(release: Release, hook_point: str) -> str:
    """The architecture, if it is one that is told by the table and matters to SAIF; else ""."""
    is_transcoder = "transcoder" in release.converter or hook_point.endswith("hook_mlp_in")
    return "transcoder" if is_transcoder else "temporal" if release.converter == "temporal" else ""


def _width(release: Release, sae_id: str) -> int | None:
    told = f"{release.name} {release.repo_id}/{release.paths[sae_id]} {release.pages[sae_id]}"
    found = (pattern.search(told) for pattern in _WIDTHS)
    match = next((match for match in found if match), None)
    return _number(match[1], match[2]) if match else None


def _number(amount: str, unit: str) -> int:
    if amount == "2pow":
        return 1 << int(unit)
    if not unit:
        return int(amount)
    if unit in "mM":
        return int(amount) * 2**20
    # "65k" is 65,536 and so is "64k": powers of two, named by thousands of either kind.
    powers = {(1 << exponent) // 1000: 1 << exponent for exponent in range(10, 20)}
    return powers.get(int(amount), int(amount) * 1024)
