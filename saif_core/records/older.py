"""What earlier versions kept, as the records of today have it: plain data to plain data.

Sessions of schema 1 had a recipe of one steered arm with the others beside it, and vectors number
by number. The first evaluations had tables of arms and of their numbers. What is not changed here
stays as it is, for ``from_json`` to check.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from saif_core.records.steering import UNSTEERED

T = TypeVar("T")
Data = dict[str, Any]
PutVector = Callable[[Sequence[float]], str]

_SCHEDULE = ("scope", "first", "decay", "decay_power")
_SAMPLING = ("chat", "max_new_tokens", "temperature", "seed", "samples")
_HOOK_POINT = re.compile(r"blocks\.(\d+)\.hook_resid_post")
_LAYER = re.compile(r"layer[_-]?(\d{1,4})", re.IGNORECASE)
_LARGEST_FLOAT32 = 3.4e38

_CONTROLS = ("random", "flipped", "logit-bias")
# The source of each arm that steers, and the method that wrote it.
_CANDIDATES = {
    "saif": ("saif", ""),
    "one-latent": ("one_latent", ""),
    "clamp": ("saif", "clamp"),
    "ablate": ("saif", "ablate"),
    "denoised": ("denoised", ""),
    "mean-difference": ("mean_difference", ""),
}
_DEFAULT_ARMS = ("unsteered", "prompted", "saif", "denoised", "mean-difference", "random")


def upgrade_session(data: Mapping[str, Any], put: PutVector) -> Data:
    """A session of schema 1 as one of schema 2.

    Its steered arm, which the recipe described, follows the unsteered one; the others follow it.

    Args:
        data: as JSON has it; left as it is.
        put: keeps a steering vector as the tensor "vector", and returns the hash it is kept under.

    Raises:
        ValueError: it is not a session of schema 1.
    """
    return _converted("session", lambda: _session(_fields(data), put))


def upgrade_evaluation(data: Data) -> Data:
    """An evaluation of the first format as one of today; any other data as it is.

    Raises:
        ValueError: it is not an evaluation.
    """
    request = data.get("request") if isinstance(data, dict) else None
    if not isinstance(request, dict) or "tops" not in request:
        return data
    return _converted("evaluation", lambda: _evaluation(_fields(data)))


def upgrade_arm_name(name: str) -> str:
    """What an arm of the first evaluations is called today; any other name as it is."""
    source, method = _CANDIDATES.get(name, (name, ""))
    return f"{source} by {method}" if method else source


def _converted(what: str, convert: Callable[[], T]) -> T:
    try:
        return convert()
    except KeyError as error:
        raise ValueError(
            f"This is no {what} of an earlier version: the field {error} is missing."
        ) from error
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"This is no {what} of an earlier version: something in it is of another type."
        ) from error


def _fields(data: Any) -> Data:
    """A copy of an object's fields, to take them out of."""
    if not isinstance(data, Mapping):
        raise TypeError("not an object")
    return dict(data)


def _moved(data: Data, names: Iterable[str]) -> Data:
    """The fields of those names that are there, taken out of the data."""
    return {name: data.pop(name) for name in names if name in data}


def _session(new: Data, put: PutVector) -> Data:
    recipe, result = new.pop("recipe", None), new.pop("result", None)
    prompts = new.pop("prompts", [])
    ranking = new.get("ranking")
    new["schema_version"] = 2
    if result is not None:
        new["result"] = _result(result, prompts, ranking, put)
    if result is not None and recipe == result["recipe"]:
        new["recipe"] = new["result"]["recipe"]
    elif recipe is not None:
        new["recipe"] = _recipe(recipe, prompts, ranking, put)
    elif prompts:
        new["recipe"] = _recipe_of_prompts(new, prompts)
    return new


def _recipe_of_prompts(session: Data, prompts: Sequence[str]) -> Data:
    """The recipe of a session that holds prompts, but nothing to steer them with."""
    instruction, ranking = session.get("instruction") or {}, session.get("ranking") or {}
    request = {
        "prompts": prompts,
        "instruction": instruction.get("name", ranking.get("instruction", "")),
    }
    model = {name: ranking.get(name, "") for name in ("model", "model_sha256")}
    return {"request": request, **model}


def _result(
    data: Mapping[str, Any], prompts: Sequence[str], ranking: Data | None, put: PutVector
) -> Data:
    new = _fields(data)
    texts = new["generations"]
    answered = {text["prompt_index"]: text["prompt"] for text in texts}
    if sorted(answered) == list(range(len(answered))):
        prompts = [answered[number] for number in range(len(answered))]
    recipe = _recipe(new["recipe"], prompts, ranking, put)
    recipe["request"]["divergence"] = any(text.get("changes") for text in texts)
    size = {"norm": new.pop("vector_norm"), "resid_share": new.pop("resid_share")}
    others = [None] * (len(recipe["request"]["arms"]) - 2)
    return {**new, "recipe": recipe, "sizes": [None, size, *others]}


def _recipe(
    data: Mapping[str, Any], prompts: Sequence[str], ranking: Data | None, put: PutVector
) -> Data:
    new = _fields(data)
    _moved(new, ("read", "selector"))  # the ranking says so too
    sae_id = new.pop("sae")
    layers = {sae_id: _layer_of_hook_point(new.pop("hook_point"))}
    if ranking is not None:
        layers.setdefault(ranking["sae"], _layer_of_hook_point(ranking["hook_point"]))
    edit = {"sae_id": sae_id, **_moved(new, ("latents", "method", "method_parameters"))}
    steered = {
        "name": "steered",
        "edits": [edit],
        **_moved(new, ("strength", *_SCHEDULE, "keep_norm")),
    }
    arms = [_arm(arm, layers, put) for arm in (steered, *new.pop("arms", ()))]
    new["sae_sha256s"] = {sae_id: new.pop("sae_sha256")}
    new["request"] = {
        "prompts": prompts,
        "arms": [{"name": UNSTEERED.name, "kind": UNSTEERED.kind}, *arms],
        "sampling": _moved(new, _SAMPLING),
        **_moved(new, ("histories", "instruction")),
    }
    return new


def _arm(data: Mapping[str, Any], layers: Mapping[str, int], put: PutVector) -> Data:
    new = _fields(data)
    keeps_norm = new.pop("keep_norm", False)
    edits = [_edit(edit, layers, put) for edit in new.get("edits", ())]
    new["schedule"] = _moved(new, _SCHEDULE)
    new["edits"] = [{**edit, "keep_norm": keeps_norm} for edit in edits if edit]
    return new


def _edit(data: Mapping[str, Any], layers: Mapping[str, int], put: PutVector) -> Data:
    """An edit with its layer, and its vector under a hash; nothing if it has nothing to write."""
    new = _fields(data)
    vector, layer = new.pop("vector", ()), new.pop("layer", None)
    if new.get("latents"):
        sae_id = new["sae_id"]
        found = layers.get(sae_id, layer)
        found = _layer_of_sae(sae_id) if found is None else found
        if found is None:
            raise ValueError(f"The id {sae_id[:80]!r} does not tell the layer of its SAE.")
        return {**new, "layer": found}
    if not vector:
        return {}
    return {**new, "layer": layer, "sae_id": "", "tensors": put(_checked(vector))}


def _checked(vector: Sequence[Any]) -> Sequence[float]:
    for number in vector:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        # A range check that is negated refuses NaN as well.
        if not is_number or not abs(number) <= _LARGEST_FLOAT32:
            raise ValueError("This is not a vector: it holds something that is no finite number.")
    return vector


def _layer_of_hook_point(name: str) -> int:
    match = _HOOK_POINT.fullmatch(name)
    if match is None:
        raise ValueError(f"The hook point {name[:80]!r} is not the end of a block.")
    return int(match[1])


def _layer_of_sae(sae_id: str) -> int | None:
    """The layer that an SAE's id names last, as in ``model/layer22``; None if it names none."""
    found = _LAYER.findall(sae_id)
    return int(found[-1]) if found else None


def _evaluation(new: Data) -> Data:
    request = new["request"]
    latents, denoised = new.pop("latents"), new.pop("denoised", {})
    settings = [cell["setting"] for cell in new["cells"]]
    least = request.get("least_output_score", 0.0)
    return {
        **new,
        "request": _request(request),
        "cells": [{**cell, "setting": _setting(cell["setting"], least)} for cell in new["cells"]],
        "best": [{**best, "arm": upgrade_arm_name(best["arm"])} for best in new["best"]],
        "best_sae_arm": upgrade_arm_name(new["best_sae_arm"]),
        "made": list(_made(settings, request, latents, denoised)),
    }


def _request(data: Mapping[str, Any]) -> Data:
    new = _fields(data)
    arms = new.pop("arms", _DEFAULT_ARMS)
    tops, betas = new.pop("tops"), new.pop("betas", [0.0])
    saif = {"top": tops, "beta": betas}
    if least := new.pop("least_output_score", 0.0):
        saif["least_output_score"] = [least]
    grids: dict[str, Data] = {
        "saif": saif,
        "clamp": saif,
        "ablate": {name: values for name, values in saif.items() if name != "beta"},
        "one-latent": {"beta": betas},
        "denoised": {"top": new.pop("denoised_tops", [60])},
        "mean-difference": {},
    }
    named = {arm: dict(zip(("source", "method"), _CANDIDATES[arm], strict=True)) for arm in grids}
    new["controls_of"] = new.pop("controls", "best")
    new["controls"] = [arm for arm in arms if arm in _CONTROLS]
    new["baselines"] = [arm for arm in arms if arm in ("unsteered", "prompted")]
    new["candidates"] = [{**named[arm], "grid": grids[arm]} for arm in arms if arm in grids]
    new["schedule"] = _moved(new, _SCHEDULE)
    new["sampling"] = {"max_new_tokens": 40, "temperature": 0.5, **_moved(new, _SAMPLING)}
    return new


def _setting(data: Mapping[str, Any], least: float) -> Data:
    new = _fields(data)
    new["arm"], new["of"] = upgrade_arm_name(data["arm"]), upgrade_arm_name(data.get("of", ""))
    numbers = new.pop("k", None), new.pop("beta", None)
    parameters = _parameters(data.get("of") or data["arm"], *numbers, least)
    return {**new, "parameters": parameters}


def _parameters(arm: str, k: int | None, beta: float | None, least: float) -> Data:
    """All parameters of an arm's source, as a setting of today has them."""
    if arm in ("saif", "clamp", "ablate"):
        return {"top": k, "beta": beta or 0.0, "least_output_score": least}
    if arm == "one-latent":
        return {"latent": None, "beta": beta or 0.0}
    return {"top": k} if arm == "denoised" else {}


def _made(settings: Sequence[Data], request: Data, latents: Data, denoised: Data) -> Iterator[Data]:
    """What the arms that wrote latents steered with, each choice once, as far as it is known."""
    saes, least = _saes_by_layer(settings, request), request.get("least_output_score", 0.0)
    seen: list[Data] = []
    for setting in settings:
        arm, layers = setting["arm"], setting["layers"]
        made = {
            "arm": upgrade_arm_name(arm),
            "layers": layers,
            "parameters": _parameters(arm, setting["k"], setting["beta"], least),
        }
        if arm not in _CANDIDATES or made in seen:
            continue
        seen.append(made)
        kept = denoised if arm == "denoised" else latents
        chosen = [_steered_with(setting, request, kept.get(str(layer), ())) for layer in layers]
        if layers and all(chosen) and saes.keys() >= set(layers):
            edits = [
                _made_edit(arm, layer, saes[layer], some, 1 / len(layers))
                for layer, some in zip(layers, chosen, strict=True)
            ]
            yield {**made, "edits": edits}


def _made_edit(arm: str, layer: int, sae_id: str, latents: Sequence[Data], share: float) -> Data:
    return {
        "layer": layer,
        "method": _CANDIDATES[arm][1] or "addition",
        "sae_id": sae_id,
        "latents": list(latents),
        "share": share,
    }


def _steered_with(setting: Data, request: Data, kept: Sequence[Data]) -> Sequence[Data]:
    """The latents of a setting at one layer; nothing if they cannot be told from those kept.

    Args:
        kept: the latents of the largest number that was tried, best first, at the first β.
    """
    arm, k, beta = setting["arm"], setting["k"], setting["beta"] or 0.0
    if arm == "mean-difference":
        return ()
    if arm == "denoised":
        return kept[:k]
    if beta != next(iter(request.get("betas", ())), 0.0):
        return ()
    # Latents that never fire were left out, and nobody knows where in the ranking they stood;
    # the first of those kept is the first of all, or one latent alone could not have been tried.
    largest = max(request["tops"], default=1)
    return kept[:k] if arm == "one-latent" or k == largest or len(kept) == largest else ()


def _saes_by_layer(settings: Sequence[Data], request: Data) -> dict[int, str]:
    """The SAE of every layer; layers were tried in the order of their SAEs."""
    sae_ids = request["sae_ids"]
    layers = list(dict.fromkeys(layer for setting in settings for layer in setting["layers"]))
    if len(layers) == len(sae_ids):
        return dict(zip(layers, sae_ids, strict=True))
    named = ((_layer_of_sae(sae_id), sae_id) for sae_id in sae_ids)
    return {layer: sae_id for layer, sae_id in named if layer is not None}
