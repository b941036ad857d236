"""Step 6: arms → what the decoder is to write: prompts, deltas at layers, biases of the logits.

Arms that share an edit share its delta, so that a batch of many strengths computes it once.
Controls act on what a delta adds, whatever method it is written by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import HookPointError, SteeringError
from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.prompts import Turn
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Arm, Edit, Sampling
from saif_core.records.texts import ArmSize
from saif_core.registry import find_writer
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.edits import Delta, Steering
from saif_core.steering.target import build_target
from saif_core.steering.tensors import Tensors


class WrittenArm(NamedTuple):
    """What an arm does to the rows of its texts.

    Attributes:
        steering: edits of the residual stream.
        logit_bias: (d_vocab,) added to the logits of every step; None for nothing.
        forced: token ids that a text begins with, whatever the model would write.
    """

    steering: tuple[Steering, ...] = ()
    logit_bias: Float[Tensor, " d_vocab"] | None = None
    forced: tuple[int, ...] = ()


class ArmBuilder:
    """Turns arms into what a decoder writes, with one delta for every distinct edit.

    Args:
        model: writes the texts.
        saes: every SAE that an edit names, by id.
        tensors: where the tensors of edits are found.
    """

    def __init__(
        self, model: LoadedModel, saes: Mapping[str, LoadedSae], tensors: Tensors | None = None
    ) -> None:
        self._model, self._saes = model, saes
        self._tensors = tensors or Tensors()
        self._deltas: dict[str, Delta] = {}

    def prompt(
        self, arm: Arm, content: str, sampling: Sampling, history: Sequence[Turn] = ()
    ) -> tuple[int, ...]:
        """Token ids of a prompt as the arm puts it.

        Raises:
            PromptPairError: it is empty.
            SteeringError: a prompted arm has no instruction.
        """
        if arm.kind == "prompted" and not arm.is_told:
            raise SteeringError(
                f"Arm {arm.name!r} is to be prompted, but has no instruction; give it one."
            )
        if arm.is_told:
            content = join_instruction(content, arm.instruction.strip(), arm.position)
        return tuple(
            self._model.encode_prompt(
                content, chat=sampling.chat, system=sampling.system, history=history
            )
        )

    def write(self, arm: Arm) -> WrittenArm:
        """What the arm adds; nothing for arms that only differ in their prompt.

        Raises:
            SteeringError: the arm steers with nothing, or its method does not take the edit.
            HookPointError: an edit is for a layer that the model or its SAE does not have.
            SaifError: a latent, tensor, method or parameter does not exist.
        """
        if not arm.steers:
            return WrittenArm()
        if not arm.edits or not all(edit.writes_something for edit in arm.edits):
            raise SteeringError(
                f"Arm {arm.name!r} has nothing to steer with; choose at least one latent, or a "
                "vector."
            )
        if arm.kind == "logit-bias":
            return WrittenArm(logit_bias=self._logit_bias(arm))
        if arm.kind == "cue-token":
            # Of strength 0 it is the unsteered arm, as every other.
            if arm.strength == 0:
                return WrittenArm()
            return WrittenArm(forced=(int(self._logit_bias(arm).argmax()),))
        return WrittenArm(tuple(self._steering(arm, edit) for edit in arm.edits))

    def size(self, arm: Arm) -> ArmSize | None:
        """How large what an arm adds is at the end of a neutral prompt; None if it adds nothing."""
        steering = self.write(arm).steering
        if not steering:
            return None
        added, found = zip(*(self._norms(one) for one in steering), strict=True)
        shares = [norm / before for norm, before in zip(added, found, strict=True)]
        return ArmSize(sum(added) / len(added), sum(shares) / len(shares))

    def sae_sha256(self, edit: Edit) -> str:
        """Hash of the SAE that an edit takes latents from; "" where it takes none."""
        sae = self._sae(edit)
        return sae.sha256 if sae else ""

    def _steering(self, arm: Arm, edit: Edit) -> Steering:
        delta = self._random_delta(edit, arm.seed) if arm.kind == "random" else self._delta(edit)
        sign = -1.0 if arm.kind == "flipped" else 1.0
        gates = self._gates(edit)
        return Steering(
            self._layer(edit),
            delta,
            sign * arm.strength * edit.share,
            edit.schedule or arm.schedule,
            edit.keep_norm,
            # A control adds where the gates are open, but nothing of theirs.
            gates if arm.kind == "steered" else None,
            may_be_silent=gates is not None,
        )

    def _gates(self, edit: Edit) -> Callable[[Tensor], Tensor] | None:
        gates, sae = find_writer(edit.method).gates, self._sae(edit)
        if gates is None:
            return None
        target = build_target(edit, sae, self._tensors.get(edit.tensors), self._model.d_model)
        return lambda resid: gates(resid, target, sae)

    def _norms(self, steering: Steering) -> tuple[float, float]:
        resid = self._model.neutral_resid(steering.layer)[None, None]
        added = steering.strength * steering.delta(resid)
        return float(added.float().norm()), float(resid.norm())

    def _logit_bias(self, arm: Arm) -> Float[Tensor, " d_vocab"]:
        """What the arm's edits add to the logits directly, at the end of a neutral prompt."""
        added = []
        for edit in arm.edits:
            resid = self._model.neutral_resid(self._layer(edit))[None, None]
            added.append(edit.share * self._delta(edit)(resid)[0, 0].float().cpu())
        bias = self._model.unembed_directions(torch.stack(added).sum(0)[None])[0]
        return arm.strength * bias / self._final_rms

    @cached_property
    def _final_rms(self) -> float:
        return float(self._model.neutral_resid(self._model.n_layers - 1).pow(2).mean().sqrt())

    def _layer(self, edit: Edit) -> int:
        if edit.layer >= self._model.n_layers:
            raise HookPointError(
                f"Something was to be written after block {edit.layer}, but the model has blocks "
                f"0 to {self._model.n_layers - 1}; choose one of these."
            )
        sae = self._sae(edit)
        if sae is not None and sae.layer != edit.layer:
            raise HookPointError(
                f"Latents of SAE {sae.id!r} were to be written after block {edit.layer}, but it "
                f"reads and writes after block {sae.layer}; choose that block or another SAE."
            )
        return edit.layer

    def _sae(self, edit: Edit) -> LoadedSae | None:
        return self._saes[edit.sae_id] if edit.sae_id else None

    def _delta(self, edit: Edit) -> Delta:
        # Strength is not part of what an edit adds, so all of its shares have one delta.
        key = repr(replace(edit, share=1.0, keep_norm=False, schedule=None))
        if key not in self._deltas:
            self._deltas[key] = self._new_delta(edit)
        return self._deltas[key]

    def _new_delta(self, edit: Edit) -> Delta:
        writer, sae = find_writer(edit.method), self._sae(edit)
        method = writer.bind("steering method", edit.method_parameters, SteeringError)
        if sae is None and writer.needs_sae:
            raise SteeringError(
                f"The steering method {edit.method!r} needs latents, but a vector was given; "
                "choose latents, or add the vector."
            )
        target = build_target(edit, sae, self._tensors.get(edit.tensors), self._model.d_model)
        # A method that fails does so here, before its rows share a pass with anyone else's.
        probe = torch.ones(2, 1, self._model.d_model).to(self._model.device, self._model.dtype)
        before = probe.clone()
        added = method(probe, target, sae)
        if not torch.equal(probe, before):
            raise SteeringError(
                f"The steering method {edit.method!r} changes the residual stream that it is "
                "given, which others share; let it return what is to be added."
            )
        try:
            torch.broadcast_to(added, probe.shape)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise SteeringError(
                f"The steering method {edit.method!r} returned no tensor of the shape of the "
                f"residual stream, {tuple(probe.shape)}; let it return what is to be added to it."
            ) from error
        return lambda resid: method(resid, target, sae)

    def _random_delta(self, edit: Edit, seed: int) -> Delta:
        """As much as an edit adds at each position, by random latents or in a random direction."""
        if edit.latents and edit.method == "addition" and self._has_others(edit):
            return self._delta(self._random_latents(edit, seed))
        drawn = np.random.default_rng(seed).standard_normal(self._model.d_model)
        unit = torch.from_numpy(drawn / np.linalg.norm(drawn)).float()
        delta, key = self._delta(edit), f"random {seed} {edit!r}"

        def random(resid: Tensor) -> Tensor:
            norms: Tensor = delta(resid).float().norm(dim=-1, keepdim=True)
            return (norms * unit.to(resid.device)).to(resid.dtype)

        return self._deltas.setdefault(key, random)

    def _has_others(self, edit: Edit) -> bool:
        """Whether the SAE has enough latents beside the chosen ones to draw as many others."""
        return 2 * len(edit.latents) <= self._saes[edit.sae_id].d_sae

    def _random_latents(self, edit: Edit, seed: int) -> Edit:
        """The same edit with other latents whose sum has the same norm."""
        sae = self._saes[edit.sae_id]
        taken = {latent.index for latent in edit.latents}
        others = np.setdiff1d(np.arange(sae.d_sae), list(taken))
        drawn = np.random.default_rng(seed).choice(others, size=len(taken), replace=False)
        latents = [
            ChosenLatent(int(index), latent.coefficient)
            for index, latent in zip(drawn, edit.latents, strict=True)
        ]
        scale = self._direction_norm(edit) / self._direction_norm(
            replace(edit, latents=tuple(latents))
        )
        return replace(
            edit, latents=tuple(ChosenLatent(x.index, x.coefficient * scale) for x in latents)
        )

    def _direction_norm(self, edit: Edit) -> float:
        target = build_target(edit, self._sae(edit), {}, self._model.d_model)
        return float(target.direction.norm())


def sae_ids(arms: Sequence[Arm]) -> list[str]:
    """The SAEs that arms take latents from, each once."""
    return list(
        dict.fromkeys(
            edit.sae_id for arm in arms if arm.steers for edit in arm.edits if edit.sae_id
        )
    )


def plugin_hashes(arms: Sequence[Arm]) -> dict[str, str]:
    """The hash of the file of everything that writes an edit of these arms, by name."""
    names = sorted({edit.method for arm in arms if arm.steers for edit in arm.edits})
    return {name: find_writer(name).file_sha256 for name in names}
