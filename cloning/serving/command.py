"""``python -m cloning serve``: its options, its socket, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from cloning.serving.settings import LOOPBACK, Limits
from zoo.errors import UserError

_LIMITS = {
    "batch_size": "images that run at once; with 1 every answer is that of deploy, bit for bit",
    "max_waiting": "requests that may wait",
    "max_image_bytes": "of an image's file",
    "max_pixels": "of an image",
    "max_clone_bytes": "of a packed clone",
    "max_clones": "on the shelf",
}


def add_arguments(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Declares the command."""
    told = "answer over HTTP for all packed clones of a folder; needs the extra serve"
    serving = commands.add_parser("serve", help=told, description=told[0].upper() + told[1:] + ".")
    serving.add_argument("--clones", type=Path, required=True, metavar="DIR", help="folder of packed clones, NAME.hz")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    serving.add_argument("--port", type=int, default=8000, help="0 takes a free one (8000)")
    serving.add_argument("--poll", type=float, default=1.0, help="seconds between two looks at the folder (1)")
    serving.add_argument(
        "--writable",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let clones be added and removed over HTTP; by default on a loopback address alone",
    )
    defaults = Limits()
    for name, meaning in _LIMITS.items():
        value = getattr(defaults, name)
        serving.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{meaning} ({value:,})")
    return serving


def run(options: argparse.Namespace) -> str:
    """Serves until a signal ends it (SIGTERM or SIGINT), with what is in flight answered.

    Raises:
        UserError: A zoo or folder that cannot be had, a port that is taken, an option out of range, no web framework.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed: pip install -e .[serve] brings it")
    limits = Limits(**{f.name: getattr(options, f.name) for f in fields(Limits) if f.name in _LIMITS})
    for name in _LIMITS:
        if getattr(limits, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(limits, name)}: expected 1 or more")
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port={options.port}: expected 0 (a free one) to 65535")
    if not 0.05 <= options.poll <= 3600:
        raise UserError(f"--poll={options.poll}: expected seconds from 0.05 to 3600")
    if options.clones.exists() and not options.clones.is_dir():
        raise UserError(f"--clones={options.clones} is a file: give a folder of packed clones")
    options.clones.mkdir(parents=True, exist_ok=True)
    os.listdir(options.clones)  # refused now if it cannot be read

    from cloning.serving.app import Server, create_app
    from cloning.shelf import Shelf
    from zoo.registry import read_zoo

    shelf = Shelf(read_zoo(options.zoo or "embedded"))
    is_local = options.host in LOOPBACK
    with _listening(options.host, options.port) as listener:
        port = listener.getsockname()[1]
        server = Server(shelf, options.clones, limits, options.poll)
        writable = is_local if options.writable is None else options.writable
        app = create_app(server, host=options.host, writable=writable)
        _serve(app, listener, f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}", server)
    return f"stopped: {server.metrics.images:,} images answered"


def _serve(app: object, listener: socket.socket, address: str, server: object) -> None:
    import uvicorn

    from cloning.serving.protocol import JsonProtocol

    class Uvicorn(uvicorn.Server):
        """Says when it is ready, and ends with status 0 where a signal asks it to."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                clones, refused = server.catalogue.clones, server.catalogue.refused
                told = f", {len(refused)} files refused" if refused else ""
                print(f"listening on {address}: {len(clones)} clones{told}", flush=True)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {kind: signal.signal(kind, self.handle_exit) for kind in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for kind, handler in before.items():
                    signal.signal(kind, handler)

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata, which many photographs have
    config = uvicorn.Config(
        app,
        http=JsonProtocol,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
    )
    running = Uvicorn(config)
    running.run(sockets=[listener])
    if not running.started:
        raise UserError("the server could not start: the lines before say why")


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--host={host} --port={port} cannot be listened on ({reason}): give others") from error
