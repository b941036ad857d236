"""Step 5: a source's name and parameters → edits, kept by what they were learned from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from saif_core.errors import SaifError, SteeringError
from saif_core.finding.study import Study
from saif_core.records.as_json import from_json, to_json
from saif_core.records.ports import ActivationCache
from saif_core.records.steering import Edit, Origin
from saif_core.registry import SOURCES, find_writer


@dataclass(frozen=True)
class Learned:
    """What a source made, and how it can be made again."""

    edits: tuple[Edit, ...]
    origin: Origin


def learn(
    study: Study,
    source: str,
    parameters: Mapping[str, Any],
    *,
    method: str = "",
    method_parameters: Mapping[str, Any] | None = None,
    cache: ActivationCache | None = None,
) -> Learned:
    """Run a source, or take what it made of the same before.

    Args:
        method: steering method that writes its latents; "" leaves it to the source.
        method_parameters: of that method.

    Raises:
        SteeringError: the source made nothing, or the method does not take what it made.
        SaifError: whatever the source raises.
    """
    registered = SOURCES.get(source)
    checked = SOURCES.check(source, parameters)
    origin = Origin(source, checked, study.key, registered.file_sha256)
    edits = _kept(study, origin, cache) or _run(study, origin, cache)
    if method:
        # A method that does not exist, or parameters that it does not take, stop here.
        bound = find_writer(method)
        bound.bind("steering method", method_parameters or {}, SteeringError)
        edits = tuple(
            replace(edit, method=method, method_parameters=dict(method_parameters or {}))
            for edit in edits
        )
    return Learned(edits, origin)


def _run(study: Study, origin: Origin, cache: ActivationCache | None) -> tuple[Edit, ...]:
    source = SOURCES.bind(origin.source, origin.parameters)
    mine = study.made_by(origin.source, origin.parameters, origin.file_sha256)
    edits = tuple(source(mine))
    if not edits or not all(edit.writes_something for edit in edits):
        raise SteeringError(
            f"The source {origin.source!r} made nothing to steer with from the pairs of "
            f"{study.instruction!r}; use more pairs, other parameters or another source."
        )
    if cache:
        payload = json.dumps([to_json(edit) for edit in edits]).encode()
        cache.put_many({_key(origin): payload})
    return edits


def _kept(study: Study, origin: Origin, cache: ActivationCache | None) -> tuple[Edit, ...]:
    """What was made before, if it and its tensors are still there; else nothing."""
    found = cache.get_many([_key(origin)]) if cache else {}
    if not found:
        return ()
    edits = tuple(from_json(Edit, data) for data in json.loads(found[_key(origin)]))
    try:
        for edit in edits:
            study.tensors.get(edit.tensors)
    except SaifError:
        return ()
    return edits


def _key(origin: Origin) -> str:
    said = json.dumps(to_json(origin), sort_keys=True)
    return hashlib.sha256(f"edits|{said}".encode()).hexdigest()
