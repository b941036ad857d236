"""How arms are written in a terminal: ``--arm NAME`` or ``--arm NAME:KEY=VALUE,KEY=VALUE``.

NAME is ``prompted``, a control of the steered arm (``random``, ``flipped``, ``logit-bias``,
``cue-token``) or a source. A comma begins the next KEY=VALUE only where a KEY= follows, so values
may hold commas: ``basket:latents=7:9,8:2,strength=2``. What is not given is as for the steered arm.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.cli.values import accepted
from saif_core.errors import SteeringError
from saif_core.parameters import Parameter, record_parameters
from saif_core.records.evaluation import CONTROLS
from saif_core.records.steering import Edit, Schedule

PROMPTED, UNSTEERED_NAME = "prompted", "unsteered"
METHOD, SOURCE = "method.", "source."
_NEXT = re.compile(r",(?=[a-z_][\w.]*=)")
_KEY = re.compile(r"[a-z_][\w.]*")


@dataclass(frozen=True)
class ArmSpec:
    """An arm as it was written.

    Attributes:
        text: the whole.
        head: what kind of arm, or the name of a source.
        texts: values by key, as they were typed.
    """

    text: str
    head: str
    texts: Mapping[str, str]

    @property
    def is_control(self) -> bool:
        """Whether it is matched to a steered arm."""
        return self.head in CONTROLS

    @property
    def has_source(self) -> bool:
        """Whether a source makes its edits."""
        return not self.is_control and self.head != PROMPTED

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of such an arm; a source's parameters come on top."""
        if self.head == PROMPTED:
            return ("name", "instruction", "position")
        told = ("instruction", "position")
        if self.is_control:
            return ("name", "of", "strength", "seed", *told, *_parameters(Schedule))
        own = ("name", "strength", "layers", "method", "keep_norm")
        return (*own, *told, *_parameters(Schedule))

    def below(self, prefix: str) -> dict[str, str]:
        """Texts whose key begins so, by the rest of the key."""
        return {k.removeprefix(prefix): v for k, v in self.texts.items() if k.startswith(prefix)}

    def source_parameters(self) -> dict[str, str]:
        """Texts that are parameters of the source, by name."""
        plain = {k: v for k, v in self.texts.items() if k not in self.keys and "." not in k}
        return plain | self.below(SOURCE)

    def fields_of(self, record: type[Any]) -> dict[str, Any]:
        """Fields of a record that were given, in their types.

        Raises:
            SaifError: a value does not fit.
        """
        return {
            name: accepted(f"In --arm {self.text!r}, {name}", parameter, self.texts[name])
            for name, parameter in _parameters(record).items()
            if name in self.texts and name in self.keys
        }

    def schedule(self, default: Schedule) -> Schedule:
        """The schedule, with what was given in place of the default."""
        return replace(default, **self.fields_of(Schedule))

    def keep_norm(self, default: bool) -> bool:
        """Whether the norm is kept."""
        return bool(self.fields_of(Edit).get("keep_norm", default))


def parse_arm(text: str) -> ArmSpec:
    """The arm that a text describes.

    Raises:
        SteeringError: it is not of that form, or has a key that such an arm does not take.
    """
    head, colon, rest = text.partition(":")
    head = head.strip()
    if not head or (colon and not rest.strip()):
        raise SteeringError(
            f"--arm is {text!r}, which is not NAME or NAME:KEY=VALUE,KEY=VALUE; write it so."
        )
    if head == UNSTEERED_NAME:
        raise SteeringError("The unsteered arm is always there; leave out --arm unsteered.")
    spec = ArmSpec(text, head, _parse_texts(text, rest) if colon else {})
    odd = next((key for key in spec.texts if not _is_taken(spec, key)), None)
    if odd is not None:
        raise SteeringError(
            f"--arm {text!r} has the key {odd!r}, which an arm {head!r} does not take; its keys "
            f"are: {', '.join(spec.keys)}."
        )
    return spec


def _parse_texts(text: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _NEXT.split(rest):
        key, equals, value = part.partition("=")
        if not equals or not _KEY.fullmatch(key.strip()):
            raise SteeringError(
                f"--arm {text!r} holds {part!r}, which is not KEY=VALUE; write an arm as in "
                "saif:top=5,method=clamp."
            )
        if key.strip() in found:
            raise SteeringError(f"--arm {text!r} gives {key.strip()!r} twice; give each key once.")
        found[key.strip()] = value
    return found


def _is_taken(spec: ArmSpec, key: str) -> bool:
    """Whether such an arm takes a key; what a source has no parameter for is refused later."""
    if key in spec.keys:
        return True
    return spec.has_source and ("." not in key or key.startswith((METHOD, SOURCE)))


def _parameters(record: type[Any]) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in record_parameters(record)}
