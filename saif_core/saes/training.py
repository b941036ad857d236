"""Training SAEs on the engine's own activations, with sae-lens's trainers.

The text is run through the model once for all layers. Activations go to float16 files, so that
training reads them in random order for as many epochs as wanted; both halves stop and resume.
The first token of every sequence is an attention sink of many times the usual norm: it is left
out here and left alone when an SAE's reconstruction is measured.
"""

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saif_core.errors import PromptPairError, SaifError
from saif_core.inputs.documents import encode_document, read_jsonl, to_document
from saif_core.models.activations import PackedRow, pack_rows, run_rows
from saif_core.models.hook_points import hook_point_name
from saif_core.models.loaded_model import LoadedModel
from saif_core.saes.loaded_sae import SINK_NORM_RATIO
from saif_core.saes.whole_files import replace_file, replaced_folder

HELD_OUT_SHARE = 50  # one document in fifty is never trained on
SEQUENCE_TOKENS = 256
ROWS_PER_BATCH = 4
NORM_BATCHES = 20  # read before training, to scale the activations
DOCUMENTS_PER_CHUNK = 64

# Of the files of a checkpoint, sae-lens writes this one last.
_LAST_WRITTEN = "activation_scaler.json"

Progress = Callable[[str, int, int], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextSource:
    """A JSONL file (.zst too) of ``{"text": …}`` or ``{"messages": …}``, and its token share."""

    path: Path
    share: float


@dataclass
class ExtractionState:
    """How far an extraction has come; written after every chunk.

    Attributes:
        n_left_out: chats that the template refuses.
    """

    n_tokens: int = 0
    n_documents: int = 0
    n_left_out: int = 0
    per_source: dict[str, int] = field(default_factory=dict)


def is_held_out(document: dict[str, Any]) -> bool:
    """Whether a document is kept for measuring and never trained on."""
    said = str(document.get("text") or "")[:200]
    # Chats without a name are told apart by what is said in them.
    if not said and not document.get("doc"):
        said = json.dumps(document.get("messages"), sort_keys=True)
    key = f"{document.get('src', '')}|{document.get('doc', '')}|{said}"
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % HELD_OUT_SHARE == 0


def read_documents(path: Path, *, held_out: bool) -> Iterator[dict[str, Any]]:
    """Documents of one side of the split, in file order.

    Raises:
        CorpusError: a line is not a text or a conversation; the message says which.
    """
    for number, document in read_jsonl(path):
        to_document(f"{path.name}:{number}", document)
        if is_held_out(document) == held_out:
            yield document


def tokenize_document(
    model: LoadedModel,
    document: dict[str, Any],
    *,
    on_left_out: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Token ids of a document in sequences of SEQUENCE_TOKENS; chats through the template.

    Args:
        on_left_out: called for a chat that the template refuses, which has no sequences.

    Raises:
        CorpusError: its text is no text, or its turns are none.
    """
    found = to_document("A document", document)
    if found is None:
        return []
    try:
        ids = encode_document(model, found)
    except PromptPairError:
        on_left_out()
        return []
    pieces = [ids[start : start + SEQUENCE_TOKENS] for start in range(0, len(ids), SEQUENCE_TOKENS)]
    return [piece for piece in pieces if len(piece) >= 8]


def mixed_documents(
    model: LoadedModel,
    sources: Sequence[TextSource],
    *,
    on_left_out: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, list[list[int]]]]:
    """(source name, sequences) of training documents, so that token shares follow ``share``.

    Args:
        on_left_out: see ``tokenize_document``.
    """
    readers = {s.path: read_documents(s.path, held_out=False) for s in sources}
    n_tokens = {s.path: 0 for s in sources}
    while readers:
        source = min(
            (s for s in sources if s.path in readers), key=lambda s: n_tokens[s.path] / s.share
        )
        document = next(readers[source.path], None)
        if document is None:
            del readers[source.path]
            continue
        # A long book would crowd out its neighbours: eight sequences of each document are enough.
        sequences = tokenize_document(model, document, on_left_out=on_left_out)[:8]
        n_tokens[source.path] += sum(map(len, sequences))
        if sequences:
            yield source.path.name, sequences


def extract_activations(
    model: LoadedModel,
    sources: Sequence[TextSource],
    layers: Sequence[int],
    folder: Path,
    *,
    n_tokens: int,
    progress: Progress | None = None,
) -> ExtractionState:
    """Write the residual stream of ``n_tokens`` tokens for every layer; resumes where it stopped.

    Files: ``layer{L}.f16`` (n_tokens, d_model) float16 and ``extraction.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / "extraction.json"
    state = ExtractionState()
    if state_path.exists():
        state = ExtractionState(**json.loads(state_path.read_text(encoding="utf-8")))
    row_bytes = 2 * model.d_model
    files = {layer: (folder / f"layer{layer}.f16").open("ab") for layer in layers}
    if any(handle.tell() < state.n_tokens * row_bytes for handle in files.values()):
        state = ExtractionState()  # a file was lost, and zeros in its place would be trained on
    for handle in files.values():
        handle.truncate(state.n_tokens * row_bytes)  # drop what a killed run half wrote
    n_left_out = 0

    def leave_out() -> None:
        nonlocal n_left_out
        n_left_out += 1

    documents = mixed_documents(model, sources, on_left_out=leave_out)
    for _ in range(state.n_documents):
        next(documents)
    try:
        while state.n_tokens < n_tokens:
            chunk = [d for _, d in zip(range(DOCUMENTS_PER_CHUNK), documents, strict=False)]
            if not chunk:
                log.warning("the sources hold only %d tokens", state.n_tokens)
                break
            sequences = [s for _, pieces in chunk for s in pieces]
            for resid in _resid_of_sequences(model, sequences, layers):
                for layer, values in resid.items():
                    values.numpy().tofile(files[layer])
                state.n_tokens += len(next(iter(resid.values())))
            for name, pieces in chunk:
                state.per_source[name] = state.per_source.get(name, 0) + sum(map(len, pieces))
            state.n_documents += len(chunk)
            state.n_left_out = n_left_out
            for handle in files.values():
                handle.flush()
            replace_file(state_path, json.dumps(asdict(state)))
            if progress:
                progress("reading" + _left_out(n_left_out), min(state.n_tokens, n_tokens), n_tokens)
    finally:
        for handle in files.values():
            handle.close()
    if n_left_out:
        log.warning("read%s, as the chat template refuses their turns", _left_out(n_left_out))
    return state


def _left_out(n: int) -> str:
    return f", {n:,} chats left out" if n else ""


def _resid_of_sequences(
    model: LoadedModel, sequences: Sequence[Sequence[int]], layers: Sequence[int]
) -> Iterator[dict[int, Tensor]]:
    rows: list[PackedRow] = []
    for row in pack_rows(model, sequences):
        rows.append(row)
        if len(rows) == ROWS_PER_BATCH:
            yield _resid_of_rows(model, rows, layers)
            rows = []
    if rows:
        yield _resid_of_rows(model, rows, layers)


def _resid_of_rows(
    model: LoadedModel, rows: Sequence[PackedRow], layers: Sequence[int]
) -> dict[int, Tensor]:
    resid = run_rows(model, rows, layers)
    wanted = torch.zeros(next(iter(resid.values())).shape[:2], dtype=torch.bool)
    for index, row in enumerate(rows):
        wanted[index, : len(row.depths)] = torch.from_numpy(row.depths > 0)
    kept = wanted.clone()
    for values in resid.values():
        norms = values.norm(dim=-1).cpu()
        kept &= norms < SINK_NORM_RATIO * norms[wanted].median()
    return {layer: values[kept.to(values.device)].half().cpu() for layer, values in resid.items()}


@dataclass(frozen=True)
class TrainingPlan:
    """What to train: shape, sparsity and schedule of one SAE per layer."""

    layers: tuple[int, ...]
    n_tokens: int
    d_sae: int = 4608
    k: int = 64
    n_epochs: float = 3.0
    batch_tokens: int = 2048
    lr: float = 2e-3
    seed: int = 0


def train_sae(
    model_id: str,
    d_model: int,
    layer: int,
    folder: Path,
    plan: TrainingPlan,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Train one TopK SAE with sae-lens on the extracted activations; resumes from its checkpoint.

    Returns:
        the folder of the finished SAE in sae-lens's format, input normalisation folded in.
    """
    # sae-lens brings TransformerLens and wandb along: seconds that only training should pay.
    from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(plan.seed)
    acts = np.memmap(folder / f"layer{layer}.f16", dtype=np.float16, mode="r").reshape(-1, d_model)
    total = int(plan.n_epochs * len(acts)) // plan.batch_tokens * plan.batch_tokens
    if total == 0:
        raise SaifError(
            f"Training needs at least {plan.batch_tokens} tokens, but {len(acts)} were read; "
            "give more text."
        )
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=d_model,
            d_sae=plan.d_sae,
            k=plan.k,
            device=device,
            dtype="float32",
            normalize_activations="expected_average_only_in",
            apply_b_dec_to_input=True,
            aux_loss_coefficient=1 / 32,
            metadata=SAEMetadata(
                model_name=model_id, hook_name=hook_point_name(layer), prepend_bos=False
            ),
        )
    )
    checkpoints = folder / f"layer{layer}-checkpoints"
    n_steps = total // plan.batch_tokens
    config: Any = SAETrainerConfig(
        total_training_samples=total,
        train_batch_size_samples=plan.batch_tokens,
        lr=plan.lr,
        lr_end=plan.lr / 50,
        lr_scheduler_name="constant",
        lr_warm_up_steps=min(100, n_steps // 10),
        lr_decay_steps=n_steps // 2,
        device=device,
        autocast=True,
        dead_feature_window=100,
        feature_sampling_window=10**9,  # sae-lens logs each window to wandb; we never do
        n_checkpoints=6,
        checkpoint_path=str(checkpoints),
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=NORM_BATCHES,
    )
    batches = _shuffled_batches(acts, plan, progress, layer, total)
    with torch.no_grad():
        # Starting at the mean spares the first epoch from learning it.
        sample = torch.from_numpy(acts[:: max(1, len(acts) // 20000)].astype(np.float32))
        scale = float(np.sqrt(d_model) / sample.norm(dim=-1).mean())
        sae.b_dec.copy_(sample.mean(0) * scale)
    trainer: Any = SAETrainer(config, sae, data_provider=batches)
    trainer.save_checkpoint = partial(_save_whole, trainer.save_checkpoint, checkpoints)
    latest = _latest_checkpoint(checkpoints)
    if latest is not None:
        _resume(trainer, latest, plan)
        batches.skip(trainer.n_training_samples)
    trainer.fit()
    target = folder / f"layer{layer}"
    with replaced_folder(target) as part:
        sae.save_inference_model(part)
        store_as_half(part)
    return target


def _save_whole(save: Callable[..., None], folder: Path, checkpoint_name: str) -> None:
    """Write a checkpoint of sae-lens's so that a kill leaves all of it or none."""
    with replaced_folder(folder / checkpoint_name) as part:
        save(checkpoint_name=part.name, base_path=part.parent)


def _resume(trainer: Any, checkpoint: Path, plan: TrainingPlan) -> None:
    """Put a trainer where it was after the step that a checkpoint was written in."""
    from safetensors.torch import load_file

    trainer.sae.load_state_dict(load_file(checkpoint / "sae_weights.safetensors"))
    trainer.load_trainer_state(checkpoint)
    # Steps are counted after a checkpoint is written, and its threshold is dropped then.
    trainer.n_training_steps = trainer.n_training_samples // plan.batch_tokens
    trainer.checkpoint_thresholds = [
        n for n in trainer.checkpoint_thresholds if n >= trainer.n_training_samples
    ]


def store_as_half(folder: Path) -> None:
    """Turn a saved SAE's weights into float16: half the size, and sae-lens still reads it."""
    from safetensors.torch import load_file, save_file

    weights, config = folder / "sae_weights.safetensors", folder / "cfg.json"
    half = {name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}
    save_file(half, weights)
    settings = json.loads(config.read_text())
    settings["dtype"] = "float16"
    # sae-lens writes names in an order that changes from process to process.
    config.write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


class _shuffled_batches:
    """Random batches of activations, the same ones in the same order at every start."""

    def __init__(
        self,
        acts: np.ndarray,
        plan: TrainingPlan,
        progress: Progress | None,
        layer: int,
        total: int,
    ) -> None:
        self._acts, self._plan, self._progress = acts, plan, progress
        self._layer, self._total, self._n_given = layer, total, 0
        self._n_before = NORM_BATCHES * plan.batch_tokens
        self._order = np.empty(0, dtype=np.int64)
        self._epoch = 0

    def __iter__(self) -> "_shuffled_batches":
        return self

    def __next__(self) -> Tensor:
        batch = np.sort(self._take())
        self._n_given += len(batch)
        if self._progress:
            n_trained = max(self._n_given - self._n_before, 0)
            self._progress(f"training layer {self._layer}", n_trained, self._total)
        return torch.from_numpy(self._acts[batch].astype(np.float32))

    def _take(self) -> np.ndarray:
        if len(self._order) < self._plan.batch_tokens:
            rng = np.random.default_rng((self._plan.seed, self._epoch))
            self._order = rng.permutation(len(self._acts))
            self._epoch += 1
        batch = self._order[: self._plan.batch_tokens]
        self._order = self._order[self._plan.batch_tokens :]
        return batch

    def skip(self, n_tokens: int) -> None:
        """Pass over what a checkpoint has already seen, and over what was read before training."""
        for _ in range(n_tokens // self._plan.batch_tokens + NORM_BATCHES):
            self._n_given += len(self._take())


def _latest_checkpoint(folder: Path) -> Path | None:
    done = [p for p in folder.glob("*") if p.name.isdigit() and (p / _LAST_WRITTEN).exists()]
    return max(done, key=lambda p: int(p.name)) if done else None
