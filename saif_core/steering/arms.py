"""Step 6½: arms → what the decoder is to write: prompts, deltas at layers, biases of the logits.

Arms that share an edit share its delta, so that a batch of many strengths computes it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import HookPointError, SteeringError
from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.records.prompts import Turn
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Arm, SteeringEdit
from saif_core.registry import STEERING_METHODS
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.edits import Delta, Steering
from saif_core.steering.target import build_target


class ArmBuilder:
    """Turns arms into rows for a decoder, with a delta for every distinct edit.

    Args:
        model: writes the texts.
        saes: every SAE that an edit names, by id.
    """

    def __init__(self, model: LoadedModel, saes: Mapping[str, LoadedSae]) -> None:
        self._model, self._saes = model, saes
        self._deltas: dict[str, Delta] = {}
        self._resid: dict[int, Tensor] = {}

    def prompt(
        self, arm: Arm, content: str, *, chat: bool, history: Sequence[Turn] = ()
    ) -> tuple[int, ...]:
        """Token ids of a prompt as the arm puts it.

        Raises:
            PromptPairError: it is empty.
            SteeringError: a prompted arm has no instruction.
        """
        if arm.kind == "prompted":
            if not arm.instruction.strip():
                raise SteeringError(
                    f"Arm {arm.name!r} is to be prompted, but has no instruction; give it one."
                )
            content = join_instruction(content, arm.instruction.strip(), arm.position)
        return tuple(self._model.encode_prompt(content, chat=chat, history=history))

    def steering(self, arm: Arm) -> tuple[Steering, ...]:
        """Edits of the residual stream; none for arms that only differ in prompt or logits.

        Raises:
            SteeringError: the arm steers with nothing, or its method does not take the edit.
            HookPointError: an edit is for a layer that the model does not have.
            SaifError: a latent, method or parameter does not exist.
        """
        if arm.kind in ("unsteered", "prompted", "logit-bias"):
            return ()
        _check_edits(arm)
        edits = [
            self._random_edit(edit, arm.seed) if arm.kind == "random" else edit
            for edit in arm.edits
        ]
        sign = -1.0 if arm.kind == "flipped" else 1.0
        return tuple(
            Steering(
                self._layer(edit),
                self._delta(edit),
                sign * arm.strength,
                arm.scope,
                arm.first,
                arm.decay,
                arm.decay_power,
                arm.keep_norm,
            )
            for edit in edits
        )

    def logit_bias(self, arm: Arm) -> Float[Tensor, " d_vocab"] | None:
        """What a control's vectors add to the logits directly, at the end of a neutral prompt.

        Raises:
            SteeringError: the arm has no vector.
        """
        if arm.kind != "logit-bias":
            return None
        _check_edits(arm)
        vector = torch.stack([self._vector(edit).cpu() for edit in arm.edits]).sum(0)
        bias = self._model.unembed_directions(vector[None])[0]
        return arm.strength * bias / self._final_rms

    def size(self, steering: Steering) -> tuple[float, float]:
        """Norm of what a steering adds at the end of a neutral prompt, and the norm it finds."""
        resid = self._neutral_resid(steering.layer)[None, None]
        added = steering.strength * steering.delta(resid)
        return float(added.float().norm()), float(resid.norm())

    def sae_sha256(self, edit: SteeringEdit) -> str:
        """Hash of the SAE that an edit takes latents from; "" for a vector."""
        return self._sae(edit).sha256 if edit.latents else ""

    def _neutral_resid(self, layer: int) -> Float[Tensor, " d_model"]:
        if layer not in self._resid:
            prompt = self._model.encode_prompt(NEUTRAL_PROMPT, chat=True)
            self._resid[layer] = self._model.resid_at_end(prompt, layer)
        return self._resid[layer]

    @cached_property
    def _final_rms(self) -> float:
        return float(self._neutral_resid(self._model.n_layers - 1).pow(2).mean().sqrt())

    def _layer(self, edit: SteeringEdit) -> int:
        layer = self._sae(edit).layer if edit.latents else edit.layer
        if layer is None or not 0 <= layer < self._model.n_layers:
            raise HookPointError(
                f"A vector was to be added after block {layer}, but the model has blocks 0 to "
                f"{self._model.n_layers - 1}; choose one of these."
            )
        return layer

    def _sae(self, edit: SteeringEdit) -> LoadedSae:
        return self._saes[edit.sae_id]

    def _delta(self, edit: SteeringEdit) -> Delta:
        key = repr(edit)
        if key not in self._deltas:
            self._deltas[key] = self._new_delta(edit)
        return self._deltas[key]

    def _new_delta(self, edit: SteeringEdit) -> Delta:
        if not edit.latents:
            return self._constant(edit)
        method = STEERING_METHODS.bind(edit.method, edit.method_parameters)
        sae = self._sae(edit)
        target = build_target(sae, edit.latents)
        # A method that fails does so here, before its rows share a pass with anyone else's.
        shape = (1, 1, self._model.d_model)
        method(torch.zeros(shape, dtype=self._model.dtype, device=self._model.device), target, sae)
        return lambda resid: method(resid, target, sae)

    def _constant(self, edit: SteeringEdit) -> Delta:
        vector = self._vector(edit)
        if edit.method != "addition":
            raise SteeringError(
                f"The steering method {edit.method!r} needs latents, but a vector was given; "
                "choose latents, or add the vector."
            )

        def delta(resid: Tensor) -> Tensor:
            return vector.to(resid.device, resid.dtype).expand(resid.shape)

        return delta

    def _vector(self, edit: SteeringEdit) -> Float[Tensor, " d_model"]:
        """What strength 1 adds, for latents by the method ``addition`` at a typical token."""
        if edit.latents:
            sae = self._sae(edit)
            direction = build_target(sae, edit.latents).direction
            return direction * sae.resid_scale(self._neutral_resid(sae.layer).to(direction.device))
        if len(edit.vector) != self._model.d_model:
            raise SteeringError(
                f"A vector of {len(edit.vector)} numbers was given, but the residual stream has "
                f"{self._model.d_model} dimensions; give one number for each."
            )
        return torch.tensor(edit.vector, dtype=torch.float32)

    def _random_edit(self, edit: SteeringEdit, seed: int) -> SteeringEdit:
        """The same with other latents, or another direction, of equal norm."""
        generator = np.random.default_rng(seed)
        if not edit.latents:
            vector = self._vector(edit)
            drawn = torch.from_numpy(generator.standard_normal(len(vector))).float()
            drawn *= vector.norm() / drawn.norm()
            return replace(edit, vector=tuple(drawn.tolist()))
        sae = self._sae(edit)
        taken = {latent.index for latent in edit.latents}
        others = np.setdiff1d(np.arange(sae.d_sae), list(taken))
        drawn_latents = generator.choice(others, size=len(taken), replace=False)
        latents = [
            ChosenLatent(int(index), latent.coefficient)
            for index, latent in zip(drawn_latents, edit.latents, strict=True)
        ]
        norm = build_target(sae, edit.latents).direction.norm()
        scale = float(norm / build_target(sae, latents).direction.norm())
        return replace(
            edit,
            latents=tuple(ChosenLatent(x.index, x.coefficient * scale) for x in latents),
        )


def _check_edits(arm: Arm) -> None:
    if not arm.edits or not all(edit.latents or edit.vector for edit in arm.edits):
        raise SteeringError(
            f"Arm {arm.name!r} has nothing to steer with; choose at least one latent, or a vector."
        )


def sae_ids(arms: Sequence[Arm]) -> list[str]:
    """The SAEs that arms take latents from, each once."""
    found: dict[str, Any] = {
        edit.sae_id: None for arm in arms for edit in arm.edits if edit.latents
    }
    return list(found)
