"""``saif serve``: the dashboard, in this process."""

import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.groups import ModelOption, SaeOption
from app.cli.options import JsonOption
from app.cli.output import Answer, answering
from app.cli.requests import absolute_folder, settings_for
from app.settings import export_settings
from saif_core.errors import SaifError

MAIN_PAGE = Path(__file__).parent.parent / "dashboard" / "main.py"
CONFIG = Path(__file__).parent.parent.parent / ".streamlit" / "config.toml"
START_SECONDS = 120.0
SWITCH_SECONDS = 2e-4
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def serve(
    host: Annotated[
        str,
        typer.Option(
            "--host", show_default="SAIF_HOST, or 127.0.0.1", help="Address to listen on."
        ),
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            show_default="SAIF_PORT, or 8501",
            help="Port to listen on.",
        ),
    ] = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Start the dashboard.

    Its address is printed as soon as it answers; Ctrl-C stops it.
    """
    settings = settings_for(model, sae)
    settings = replace(settings, host=host or settings.host, port=port or settings.port)
    _check_free(settings.host, settings.port)
    export_settings(settings)
    with answering(as_json) as answer:
        data = {
            "url": _url(settings.host, settings.port, absolute_folder(sae)),
            "host": settings.host,
            "port": settings.port,
            "model": settings.model,
        }
        threading.Thread(target=_announce, args=(answer, data), daemon=True).start()
        _run_streamlit(settings.host, settings.port)


def _run_streamlit(host: str, port: int) -> None:
    import tomllib

    from streamlit.web import bootstrap

    options = _flat(tomllib.loads(CONFIG.read_text(encoding="utf-8"))) if CONFIG.exists() else {}
    options |= {
        "server.headless": True,
        "server.address": host,
        "server.port": port,
        "browser.gatherUsageStats": False,
        "logger.hideWelcomeMessage": True,
    }
    # The model's worker asks for the interpreter thousands of times a second; were it to wait the
    # usual 5 ms each time a page is being drawn, a ranking would take several times as long.
    sys.setswitchinterval(SWITCH_SECONDS)
    bootstrap.load_config_options(options)
    bootstrap.run(str(MAIN_PAGE), False, [], options)


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names, as Streamlit takes them when it is not in that folder."""
    options: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict):
            options |= _flat(value, f"{prefix}{name}.")
        else:
            options[prefix + name] = value
    return options


def _check_free(host: str, port: int) -> None:
    """Bind the address once: Streamlit would only log that it cannot, or take another port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SaifError(
            f"The dashboard cannot listen on {host} port {port} ({error.strerror or error}); "
            "choose another with --host and --port."
        ) from error


def _url(host: str, port: int, sae: str = "") -> str:
    from urllib.parse import quote

    reached = _EVERY_ADDRESS.get(host, host)
    authority = f"[{reached}]" if ":" in reached else reached
    query = f"?sae={quote(sae, safe='/:')}" if sae else ""
    return f"http://{authority}:{port}/{query}"


def _announce(answer: Answer, data: dict[str, Any]) -> None:
    import urllib.request

    health = _url(data["host"], data["port"]) + "_stcore/health"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with opener.open(health, timeout=2) as response:
                if response.status == 200:
                    answer(data, f"SAIF is at {data['url']}")
                    return
        except OSError:
            time.sleep(0.05)
