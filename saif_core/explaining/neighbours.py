"""Which latents have alike decoder directions, in the same layer and in others; no model needed."""

import threading
from functools import lru_cache
from typing import Protocol

from torch import Tensor

from saif_core.errors import check_latent
from saif_core.explaining.flow import flow_graph, match_latents
from saif_core.records.flow import FlowGraph
from saif_core.records.latents import Neighbour
from saif_core.records.saes import SaeInfo, layers_of

KEPT_ANSWERS = 512


class DecoderCatalog(Protocol):
    """Where decoder directions come from."""

    def saes(self, model_id: str) -> list[SaeInfo]:
        """SAEs that can be chosen for a model."""

    def load_decoder(self, sae_id: str, model_id: str) -> Tensor:
        """Decoder directions (d_sae, d_model) of an SAE."""


class DecoderShelf:
    """Decoder directions of a model's SAEs, read when first asked for; safe from any thread.

    Args:
        catalog: where they come from.
        model_id: the model that the SAEs belong to.
    """

    def __init__(self, catalog: DecoderCatalog, model_id: str) -> None:
        self._catalog = catalog
        self._model_id = model_id
        self._decoders: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self.neighbours = lru_cache(KEPT_ANSWERS)(self._neighbours)
        self.flow = lru_cache(KEPT_ANSWERS)(self._flow)

    def _neighbours(
        self, sae_id: str, latent: int, other_id: str, n: int = 10
    ) -> tuple[Neighbour, ...]:
        """The ``n`` latents of an SAE most like one of another, or of the same but for itself.

        Raises:
            UnknownLatentError: there is no such latent.
        """
        same = other_id == sae_id
        decoder = self._decoder(sae_id, latent)
        matches = match_latents(decoder, self._decoder(other_id), [latent], n + same)
        layer = self._layers()[other_id]
        found = [
            Neighbour(other_id, layer, int(index), float(cosine))
            for index, cosine in zip(matches.indices[0], matches.cosines[0], strict=True)
            if not (same and int(index) == latent)
        ]
        return tuple(found[:n])

    def _flow(self, sae_id: str, latent: int, breadth: int = 2) -> FlowGraph:
        """Where a latent comes from and goes to, through one SAE of each layer.

        Raises:
            UnknownLatentError: there is no such latent.
        """
        self._decoder(sae_id, latent)
        layers = self._layers()
        # One SAE a layer: the one asked for, else the first that is offered.
        chosen = {layer: id for id, layer in reversed(layers.items())} | {layers[sae_id]: sae_id}
        decoders = {layer: self._decoder(id) for layer, id in sorted(chosen.items())}
        return flow_graph(latent, layers[sae_id], decoders, breadth=breadth)

    def sae_of_layer(self, layer: int, near: str) -> str:
        """The SAE that stands for a layer in the flow of a latent of ``near``."""
        layers = self._layers()
        return near if layers[near] == layer else next(i for i, at in layers.items() if at == layer)

    def _layers(self) -> dict[str, int]:
        return layers_of(self._catalog.saes(self._model_id))

    def _decoder(self, sae_id: str, latent: int = 0) -> Tensor:
        with self._lock:
            if sae_id not in self._decoders:
                loaded = self._catalog.load_decoder(sae_id, self._model_id)
                self._decoders[sae_id] = loaded
            decoder = self._decoders[sae_id]
        check_latent(latent, len(decoder), f"SAE {sae_id!r}")
        return decoder
