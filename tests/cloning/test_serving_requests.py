"""Bad requests to ``python -m cloning serve``: each gets one line of JSON, and the server lives on."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import threading
import time
import zlib

import numpy as np
import pytest
from served import Served, packed, png, tiff
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from cloning.serving.app import _Gate
from cloning.serving.metrics import Metrics


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 black pixels in some KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    size = (8000).to_bytes(4, "big") * 2
    rows = zlib.compress(b"\0" * (8001 * 8000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\0\0\0\0") + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD = {
    "huge body": (413, ("POST", "/clones/one/predict", b"\0" * (17 * 2**20)), "larger than 16,777,216 bytes"),
    "empty body": (400, ("POST", "/clones/one/predict", b""), "the body is empty"),
    "no image": (422, ("POST", "/clones/one/predict", b"hello"), "the body cannot be read as an image"),
    "half an image": (422, ("POST", "/clones/one/predict", png(0)[:300]), "the body cannot be read as an image"),
    "a bomb": (422, ("POST", "/clones/one/predict", bomb()), "has 8,000 x 8,000 pixels, more than 16,777,216"),
    "a form": (415, ("POST", "/clones/one/predict", b"a=b", "application/x-www-form-urlencoded"), "content type"),
    "no content type": (415, ("POST", "/clones/one/predict", png(0), ""), "content type '(none)': expected image/"),
    "unknown clone": (404, ("POST", "/clones/nobody/predict", png(0)), "there is no clone 'nobody'"),
    "not a number": (
        422,
        ("POST", "/clones/one/predict", tiff(np.full((28, 28), np.nan, np.float32)), "image/tiff"),
        "values from nan to nan, expected 0 to 1",
    ),
    "another parameter": (422, ("POST", "/clones/one/predict?topk=1", png(0)), "'topk' is no parameter"),
    "no such count": (
        422,
        ("POST", "/clones/one/predict?top_k=0", png(0)),
        "top_k='0': expected a whole number",
    ),
    "no number": (422, ("POST", "/clones/one/predict?top_k=x", png(0)), "top_k='x': expected a whole number"),
    "two counts": (422, ("POST", "/clones/one/predict?top_k=1&top_k=2", png(0)), "top_k is given 2 times"),
    "a way up": (404, ("POST", "/clones/../../etc/passwd/predict", png(0)), "not found"),
    "a coded way up": (404, ("PUT", "/clones/..%2f..%2fx", b"x", "application/octet-stream"), "not found"),
    "a name with a dot first": (422, ("PUT", "/clones/.x", b"x", "application/octet-stream"), "is no name of a clone"),
    "a name with a null": (422, ("PUT", "/clones/x%00", b"x", "application/octet-stream"), "is no name of a clone"),
    "a way up to delete": (404, ("DELETE", "/clones/..%2fzoo.yaml"), "not found"),
    "nothing to delete": (404, ("DELETE", "/clones/nobody"), "there is no clone 'nobody'"),
    "no clone": (422, ("PUT", "/clones/new", b"hello", "application/octet-stream"), "new.hz: no packed clone"),
    "a clone as an image": (415, ("PUT", "/clones/new", b"hello"), "expected application/octet-stream"),
    "another method": (405, ("PATCH", "/health"), "method not allowed"),
    "no name": (404, ("PUT", "/clones/", b"x", "application/octet-stream"), "not found"),
    "another page": (404, ("GET", "/"), "not found"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_one_line_and_the_server_lives_on(server: Served, what: str) -> None:
    status, request, message = BAD[what]
    before = sorted(path.name for path in server.folder.parent.iterdir()), sorted(server.folder.iterdir())
    found, content = server.ask(*request)
    assert found == status, content
    assert list(content) == ["error"]
    assert message in content["error"]
    assert "\n" not in content["error"]
    assert (sorted(path.name for path in server.folder.parent.iterdir()), sorted(server.folder.iterdir())) == before
    assert server.ask("GET", "/health")[1]["status"] == "ok"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xff\xff" * 10,
        b"GET /health\r\n\r\n",
        b"POST /clones/one/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nhello",
        b"POST /clones/one/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["another protocol", "no version", "negative length", "broken chunk"],
)
def test_what_is_no_request_is_one_line_too(server: Served, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = json.loads(answer.read())
    assert (answer.status, list(content)) == (400, ["error"])
    assert "not a request of HTTP/1.1" in content["error"]
    assert server.ask("GET", "/health")[1]["status"] == "ok"


def test_beyond_what_may_be_in_flight_one_line_is_answered() -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await JSONResponse({})(scope, receive, send)

    async def ask(sent: list[Message]) -> None:
        async def send(message: Message) -> None:
            sent.append(message)

        await gate({"type": "http", "headers": []}, None, send)

    async def three() -> list[list[Message]]:
        answers = [[], [], []]
        first = asyncio.create_task(ask(answers[0]))
        await asyncio.sleep(0)
        await ask(answers[1])
        release.set()
        await first
        await ask(answers[2])
        return answers

    release, metrics = asyncio.Event(), Metrics()
    gate = _Gate(waits, metrics=metrics, only_local=False, most=1)
    answers = asyncio.run(three())
    assert [answer[0]["status"] for answer in answers] == [200, 503, 200]
    assert json.loads(answers[1][1]["body"]) == {"error": "too many requests are in flight: come again later"}
    assert metrics.requests == {200: 2, 503: 1}


def test_compressed_and_cut_bodies(server: Served) -> None:
    status, content = server.ask("POST", "/clones/one/predict", png(0), **{"content-encoding": "gzip"})
    assert (status, content["error"]) == (415, "content encoding 'gzip': send the body as it is")

    def num_refused() -> int:
        found = re.search(r'requests_total{status="400"} (\d+)', server.ask("GET", "/metrics")[1])
        return int(found[1]) if found else 0

    before = num_refused()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = b"POST /clones/one/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        connection.sendall(head + b"Content-Length: 500\r\n\r\n" + png(0)[:50])
    for _ in range(300):
        if num_refused() == before + 1:
            return
        time.sleep(0.05)
    raise AssertionError("it is not counted")


def test_many_change_one_name_at_once(server: Served) -> None:
    contents, statuses = [packed(server, name) for name in ("late", "two")], []

    def client(number: int) -> None:
        for step in range(4):
            is_put = (number + step) % 3 > 0
            request = server.put("same", contents[step % 2]) if is_put else server.ask("DELETE", "/clones/same")
            statuses.append(request[0])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 201, 404}
    assert server.put("same", contents[0])[0] in (200, 201)
    assert (server.folder / "same.hz").read_bytes() == contents[0]
    assert server.predict("same", 0) == server.wanted["late"][0]
    assert server.ask("DELETE", "/clones/same")[0] == 200
    assert not (server.folder / "same.hz").exists()
