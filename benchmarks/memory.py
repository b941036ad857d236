"""How much memory the server holds as pages are opened: one browser session after another.

    python -m benchmarks.memory --loads 300

Starts ``saif serve`` with a home of its own and opens its pages in turn over the websocket that
browsers use, each in a session that ends when the page is drawn. With ``--click`` it presses the
primary button of a page too, so that latents are found and texts are written meanwhile. Prints the
server's resident memory along the way, read when all jobs have ended, as a Markdown table.

With ``--generations`` it goes on to press Generate on the same server, each time with another
latent and ``TOKENS`` tokens at most, and prints a second table.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from app.settings import load_settings
from saif_core.inputs.shipped import shipped_instructions
from storage import open_store
from storage.job_store import JobStore

# {n} is another latent each time; {sae} and {instruction} are each of them in turn.
PAGES = (
    "",
    "instructions?sae={sae}&instruction={instruction}",
    "latents?sae={sae}",
    "latent?sae={sae}&latent={n}",
    "compare?sae={sae}&basket={n}:5,2:5",
    "evaluate?sae={sae}",
    "sessions",
    "search?sae={sae}&search_words=water&by=words",
    "vector?sae={sae}",
    "sae_health?sae={sae}",
    "corpus?sae={sae}",
)
BUTTONS = ("Find latents", "Generate")
GENERATE = "compare?sae={sae}&basket={n}:5,2:5"
TOKENS_FIELD, TOKENS = "Tokens at most", 4
SAES = tuple(f"smollm2-135m-instruct/layer{layer}" for layer in (14, 22, 29))
INSTRUCTIONS = tuple(shipped_instructions())
LATENTS = 4608
START_SECONDS, PAGE_SECONDS = 120.0, 120.0


def main() -> None:
    """Open the pages, and print the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=300, help="pages to open")
    parser.add_argument("--every", type=int, default=25, help="pages between two readings")
    parser.add_argument("--click", action="store_true", help="press primary buttons too")
    parser.add_argument("--generations", type=int, default=0, help="texts to have written then")
    parser.add_argument("--pages", nargs="*", default=list(PAGES), help="instead of all of them")
    options = parser.parse_args()
    models = load_settings().home / "models"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(models)
        port = _free_port()
        server = _serve(home, port)
        try:
            _wait(f"http://127.0.0.1:{port}/_stcore/health", server)
            _walk(port, server.pid, open_store(f"sqlite:///{home}/saif.db").jobs, options)
        finally:
            server.terminate()
            server.wait(60)


def _walk(port: int, pid: int, jobs: JobStore, options: argparse.Namespace) -> None:
    loads, every, pages = options.loads, options.every, options.pages
    for number in range(len(pages) * len(SAES)):  # the first visit loads what everybody shares
        open_page(port, _fill(pages[number // len(SAES)], number))
    _print_head("pages opened")
    for number in range(loads + 1):
        if number % every == 0:
            _print_memory(number, pid, jobs)
        if number < loads:
            open_page(port, _fill(pages[number % len(pages)], number), click=options.click)
    if not options.generations:
        return
    _print_head("runs of texts")
    for number in range(options.generations + 1):
        if number % every == 0:
            _print_memory(number, pid, jobs)
        if number < options.generations:
            open_page(port, _fill(GENERATE, number), click=True, tokens=TOKENS)
            _finished(jobs)


def _print_head(counted: str) -> None:
    print(f"\n| {counted} | jobs ended | resident MiB | threads |\n|---:|---:|---:|---:|")


def _print_memory(number: int, pid: int, jobs: JobStore) -> None:
    n_jobs = _finished(jobs)
    memory, threads = _status(pid, "VmRSS") / 1024, _status(pid, "Threads")
    print(f"| {number} | {n_jobs} | {memory:,.0f} | {threads} |", flush=True)


def _finished(jobs: JobStore) -> int:
    """Wait until nothing is to be done; how many jobs came to an end."""
    while True:
        states = [job.state for job in jobs.list(limit=10_000)]
        if not {"queued", "running"} & set(states):
            return len(states)
        time.sleep(0.5)


def _status(pid: int, name: str) -> int:
    """A figure that Linux keeps of a process; memory in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _fill(page: str, number: int) -> str:
    return page.format(
        n=number * 7 % LATENTS,
        sae=SAES[number % len(SAES)],
        instruction=INSTRUCTIONS[number % len(INSTRUCTIONS)],
    )


def open_page(port: int, page: str, *, click: bool = False, tokens: int = 0) -> None:
    """Open a page in a session of its own, until it is drawn.

    Args:
        click: press its primary button then, if it has one of ``BUTTONS``, and wait again.
        tokens: at most so many in a text, for a page with that field; 0 leaves it as it is.
    """
    name, _, query = page.partition("?")
    asked = BackMsg()
    asked.rerun_script.page_name = name
    asked.rerun_script.query_string = query
    url = f"ws://127.0.0.1:{port}/_stcore/stream"
    with connect(url, subprotocols=["streamlit"], max_size=None, proxy=None) as socket:  # type: ignore[list-item]
        socket.send(asked.SerializeToString())
        button, field = _draw(socket)
        if click and button:
            if tokens and field:
                set_field = asked.rerun_script.widget_states.widgets.add()
                set_field.id, set_field.double_value = field, tokens
            pressed = asked.rerun_script.widget_states.widgets.add()
            pressed.id, pressed.trigger_value = button, True
            socket.send(asked.SerializeToString())
            _draw(socket)


def _draw(socket: ClientConnection) -> tuple[str, str]:
    """Wait until a page is drawn; the ids of one of ``BUTTONS`` that can be pressed and a field."""
    found = field = ""
    while True:
        data = socket.recv(timeout=PAGE_SECONDS)
        assert isinstance(data, bytes)
        message = ForwardMsg.FromString(data)
        button = message.delta.new_element.button
        if button.label in BUTTONS and not button.disabled:
            found = button.id
        number = message.delta.new_element.number_input
        if number.label == TOKENS_FIELD:
            field = number.id
        # A page that is begun anew while it is drawn ends only once.
        if message.WhichOneof("type") == "script_finished" and message.script_finished == 0:
            return found, field


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(home: Path, port: int) -> "subprocess.Popen[bytes]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAIF_")}
    command = [sys.executable, "-m", "app.cli.main", "serve", "--port", str(port)]
    with (home / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command, env=environment | {"SAIF_HOME": str(home)}, stdout=log, stderr=log
        )


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise SystemExit("The dashboard did not start.")


if __name__ == "__main__":
    main()
