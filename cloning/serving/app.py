"""The HTTP side: bodies in bounds, images in, names and probabilities out, one line for whatever is refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from cloning.serving.batching import Batcher, Busy
from cloning.serving.catalogue import Catalogue
from cloning.serving.metrics import Metrics
from cloning.serving.settings import LOOPBACK, Limits, require_name
from cloning.shelf import Shelf, Shelved
from datamodules.decoding import Decoding, decode_bytes
from datamodules.images import normalise, resize_and_crop
from zoo.errors import UserError
from zoo.interface import Reading
from zoo.storage.plain import one_line

log = logging.getLogger(__name__)

DECODERS = 2
MAX_IN_FLIGHT = 2048
"""Requests without an answer yet, of any kind."""


class Refused(Exception):
    """An answer other than 200: its status, and one line."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


class Server:
    """What the routes share.

    Args:
        shelf: The networks.
        folder: Of packed clones.
        limits: Of requests.
        poll_seconds: Between two looks at the folder.
    """

    def __init__(self, shelf: Shelf, folder: Path, limits: Limits, poll_seconds: float) -> None:
        self.limits, self.poll_seconds, self.metrics = limits, poll_seconds, Metrics()
        self.batcher = Batcher(shelf, limits.batch_size, limits.max_waiting, self.metrics)
        self.catalogue = Catalogue(folder, self.batcher, limits)
        self.held_bytes = 0
        self.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """From the first look at the folder to the end of both threads."""
        await self.catalogue.look()
        tasks = [asyncio.create_task(work) for work in (self.batcher.run(), self._watch())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.batcher.close()
        self.decoders.shutdown(cancel_futures=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.poll_seconds)
            try:
                await self.catalogue.look()
            except OSError as error:  # the folder is away for a moment: what is served stays
                log.warning("%s: %s", error.filename, error.strerror)

    @contextlib.asynccontextmanager
    async def body(self, request: Request, limit: int, kinds: tuple[str, ...]) -> AsyncIterator[bytes]:
        """The body of a request, of which no more than the limit is ever read.

        Raises:
            Refused: Another content type, compressed, too large, too slow, cut short, empty, or too much in flight.
        """
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not given.startswith(kinds):
            raise Refused(415, f"content type {given[:60] or '(none)'!r}: expected {' or '.join(kinds)}...")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise Refused(415, f"content encoding {encoding[:60]!r}: send the body as it is")
        told = f"the body is larger than {limit:,} bytes, which is the most that is read"
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise Refused(413, told)
        held = bytearray()

        async def read() -> None:
            async for part in request.stream():
                held.extend(part)
                self.held_bytes += len(part)
                if len(held) > limit:
                    raise Refused(413, told)
                if self.held_bytes > self.limits.max_held_bytes:
                    raise Refused(503, "too much is being uploaded at once: come again later")

        try:
            await asyncio.wait_for(read(), self.limits.body_seconds)
            if not held:
                raise Refused(400, "the body is empty")
            yield bytes(held)
        except ClientDisconnect:  # nobody is there to read this; it is counted
            raise Refused(400, "the body ended before all of it had come") from None
        except asyncio.TimeoutError:
            raise Refused(408, f"the body did not come within {self.limits.body_seconds:g} seconds") from None
        finally:
            self.held_bytes -= len(held)

    def clone(self, name: str) -> Shelved:
        """The clone of that name.

        Raises:
            Refused: No such name, or its file is refused.
        """
        found = self.catalogue.clones.get(name)
        if found is None:
            raise Refused(404, f"there is no clone {name[:100]!r}{self._why(name)}")
        return found

    def _why(self, name: str) -> str:
        reason = self.catalogue.refused.get(f"{name}.hz")
        return f": {reason}" if reason else ""

    async def predict(self, clone: Shelved, content: bytes, top_k: int) -> list[dict[str, Any]]:
        """The most probable classes of one image, by a clone that may have left the shelf meanwhile."""
        reading = clone.network.reading
        loop = asyncio.get_running_loop()
        images = await loop.run_in_executor(self.decoders, read_image, content, reading, self.limits.max_pixels)
        logits = await self.batcher.logits(clone.network, images)
        if not logits.isfinite().all():
            raise Refused(500, f"{clone.name} gives logits that are not finite: have it packed anew")
        self.metrics.images += len(images)
        values, outputs = logits.float().softmax(1)[0].topk(min(top_k, logits.shape[1]))
        names = [clone.network.classes[output] for output in outputs.tolist()]
        return [{"class": c, "probability": p} for c, p in zip(names, values.tolist(), strict=True)]


def read_image(content: bytes, reading: Reading, max_pixels: int) -> Tensor:
    """An image's file as a network takes it, (1, C, H, W), as ``deploy`` reads it."""
    decoding = Decoding(reading.background, reading.white_level)
    pixels = decode_bytes(content, decoding, "the body", max_pixels).pixels[None]
    return normalise(resize_and_crop(pixels, reading.input), reading.input)


class _Gate:
    """Counts answers by status, and lets in what was meant for this machine, as long as there is room."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, only_local: bool, most: int = MAX_IN_FLIGHT) -> None:
        self.app, self.metrics, self.only_local, self.most = app, metrics, only_local, most
        self.num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests[message["status"]] += 1
            await send(message)

        answer: ASGIApp = self.app
        if self.only_local and not _is_local(Headers(scope=scope).get("host", "")):
            answer = JSONResponse({"error": "this server answers to localhost alone: start it with --host"}, 421)
        elif self.num_in_flight >= self.most:
            told = "too many requests are in flight: come again later"
            answer = JSONResponse({"error": told}, 503, {"retry-after": "1"})
        self.num_in_flight += 1
        try:
            await answer(scope, receive, counted)
        finally:
            self.num_in_flight -= 1


def _is_local(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False


def create_app(server: Server, *, host: str, writable: bool) -> FastAPI:
    """The application.

    Args:
        server: What answers.
        host: That it listens on; on a loopback address only names of this machine are taken for it, so that no page in
            a browser reaches it under a name of its own.
        writable: Whether clones are added and removed over HTTP.
    """
    app = FastAPI(
        title="Huozi: cloned networks",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=server.lifespan,
    )
    app.add_middleware(_Gate, metrics=server.metrics, only_local=host in LOOPBACK)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status, {"retry-after": "1"} if error.status == 503 else {})

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(OSError)
    async def not_kept(request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"error": f"the folder of clones cannot be changed: {error.strerror}"}, 507)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        told = f"{request.method} {request.url.path[:100]!r}: {str(error.detail).lower()}"
        return JSONResponse({"error": told}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"{type(error).__name__}: {one_line(error)}"}, 500)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it answers, and for how many."""
        return {"status": "ok", "clones": len(server.catalogue.clones), "refused": len(server.catalogue.refused)}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Counters in the text format of Prometheus."""
        gauges = {
            "clones": len(server.catalogue.clones),
            "refused_files": len(server.catalogue.refused),
            "networks": len(server.batcher.shelf.networks),
            "waiting_requests": server.batcher.num_waiting,
        }
        return PlainTextResponse(server.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    @app.get("/clones")
    async def clones() -> dict[str, Any]:
        """All clones, and the files that are refused."""
        found = [_described(server.catalogue.clones[name]) for name in sorted(server.catalogue.clones)]
        return {"clones": found, "refused": dict(sorted(server.catalogue.refused.items()))}

    @app.get("/clones/{name}")
    async def clone(name: str) -> dict[str, Any]:
        """One clone."""
        return _described(server.clone(name))

    @app.put("/clones/{name}")
    async def put(name: str, request: Request) -> JSONResponse:
        """Adds a clone, or replaces one."""
        _require(writable)
        require_name(name)
        async with server.body(request, server.limits.max_clone_bytes, ("application/octet-stream",)) as content:
            change = await server.catalogue.put(name, content)
        return JSONResponse({"change": change.kind, **_described(change.clone)}, 201 if change.kind == "added" else 200)

    @app.delete("/clones/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Takes a clone off."""
        _require(writable)
        try:
            await server.catalogue.delete(require_name(name))
        except KeyError:
            raise Refused(404, f"there is no clone {name!r}") from None
        return {"change": "removed", "name": name}

    @app.post("/clones/{name}/predict")
    async def predict(name: str, request: Request, top_k: str = "5") -> dict[str, Any]:
        """Classes and probabilities of the image in the body, of the ``top_k`` most probable classes."""
        started = time.perf_counter()
        clone = server.clone(name)  # before anything is read
        for given in request.query_params.keys() - {"top_k"}:
            raise Refused(422, f"{given[:60]!r} is no parameter of this request; there is top_k")
        if len(given := request.query_params.getlist("top_k")) > 1:
            raise Refused(422, f"top_k is given {len(given)} times: expected one number")
        if not (top_k.isdecimal() and len(top_k) < 10 and int(top_k)):
            raise Refused(422, f"top_k={top_k[:60]!r}: expected a whole number from 1 to 999999999")
        try:
            async with server.body(request, server.limits.max_image_bytes, ("image/",)) as content:
                found = await server.predict(clone, content, int(top_k))
        except Busy:
            raise Refused(503, "too many requests wait: come again later") from None
        server.metrics.seconds.add(time.perf_counter() - started)
        return {"clone": name, "predictions": found}

    return app


def _require(writable: bool) -> None:
    if not writable:
        raise Refused(
            403, "clones are not changed over HTTP here: start the server with --writable, or change its folder"
        )


def _described(clone: Shelved) -> dict[str, Any]:
    blueprint = clone.blueprint
    return {
        "name": clone.name,
        "composition": blueprint.composition,
        "classes": list(blueprint.classes),
        "networks": dict(blueprint.networks),
        "bytes": clone.num_bytes,
        "sha256": clone.sha256,
    }
