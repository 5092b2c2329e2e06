"""``python -m cloning serve``: a real process, concurrent clients, files that come and go, and bad requests."""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from cloning_stand_ins import ZOO, adapter, clone
from PIL import Image

import deploy
from cloning.__main__ import main
from cloning.bundle import pack
from cloning.frozen import FrozenNetworks
from cloning.network import ClonedNetwork
from cloning.serving.command import add_arguments
from zoo.registry import read_zoo

PROJECT = Path(__file__).parents[2]
CLONES = {
    "one": ("low", ("high", "d", 0)),
    "two": ("low", ("high", "e", 0), ("rare", "f", 2)),
    "other": ("rare", ("low", "a", 1)),
    "late": ("low", ("rare", "g", 1)),
}


class Served:
    """A running server, and what its clones have to say of some images."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen) -> None:
        self.folder, self.port, self.process = folder, port, process
        self.images = [png(seed) for seed in range(4)]
        files = [folder.parent / "images" / f"{seed}.png" for seed in range(4)]
        for file, content in zip(files, self.images, strict=True):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        self.wanted = {}
        for name in CLONES:
            model = deploy.load(folder.parent / "packed" / f"{name}.hz", zoo=folder.parent / "zoo.yaml")
            self.wanted[name] = [dict(model.predict(file)[0]) for file in files]

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "image/png", **headers: str):
        """Status and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            given = {"content-type": kind, **headers} if body is not None else headers
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(content) if is_json else content.decode()

    def predict(self, name: str, number: int) -> dict[str, float]:
        status, content = self.ask("POST", f"/clones/{name}/predict?top_k=100", self.images[number])
        assert status == 200, content
        return {item["class"]: item["probability"] for item in content["predictions"]}

    def put(self, name: str, content: bytes):
        return self.ask("PUT", f"/clones/{name}", content, "application/octet-stream")

    def until(self, is_so) -> None:
        """Waits for the server to look at its folder."""
        for _ in range(300):
            if is_so(self.ask("GET", "/clones")[1]):
                return
            time.sleep(0.05)
        raise AssertionError(self.ask("GET", "/clones"))


def png(seed: int, size: tuple[int, int] = (28, 28)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "tiff")
    return file.getvalue()


@contextmanager
def serving(folder: Path, zoo: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen]]:
    command = [sys.executable, "-m", "cloning", "serve", "--clones", str(folder), "--zoo", str(zoo), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--poll", "0.1", *words], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline()
        match = re.match(r"listening on http://127\.0\.0\.1:(\d+): \d+ clones", line)
        assert match, line
        yield int(match[1]), process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("served")
    (place / "zoo.yaml").write_text(ZOO)
    networks = FrozenNetworks(read_zoo(place / "zoo.yaml"))
    for number, (name, (target, *grafts)) in enumerate(CLONES.items()):
        target = networks(target)
        clones = [clone(networks(source), gained, position) for source, gained, position in grafts]
        classes = [*(c for c in target.classes), *(c for graft in clones for c in graft.classes)]
        found = ClonedNetwork(target, classes, clones, [adapter(target, graft) for graft in clones])
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            found.head.weight.mul_(1 + torch.rand(found.head.weight.shape, generator=generator))
        pack(found, place / "packed" / f"{name}.hz")
    (place / "clones").mkdir()
    for name in ("one", "two", "other"):
        (place / "clones" / f"{name}.hz").write_bytes((place / "packed" / f"{name}.hz").read_bytes())
    with serving(place / "clones", place / "zoo.yaml") as (port, process):
        yield Served(place / "clones", port, process)


def packed(server: Served, name: str) -> bytes:
    return (server.folder.parent / "packed" / f"{name}.hz").read_bytes()


def test_answers_are_those_of_deploy_bit_for_bit(server: Served) -> None:
    for name in ("one", "two", "other"):
        for number in range(4):
            assert server.predict(name, number) == server.wanted[name][number]
    status, content = server.ask("POST", "/clones/one/predict?top_k=1", server.images[0])
    assert (status, len(content["predictions"])) == (200, 1)


def test_clones_come_and_go_under_load_and_disturb_no_answer(server: Served) -> None:
    stop, faults, counts = threading.Event(), [], dict.fromkeys(("one", "two", "other"), 0)

    def client(name: str) -> None:
        while not stop.is_set() and not faults:
            number = counts[name] % 4
            try:
                found = server.predict(name, number)
                wanted = server.wanted[name][number]
                if found.keys() != wanted.keys() or any(abs(found[c] - wanted[c]) > 1e-5 for c in wanted):
                    faults.append((name, found, wanted))
            except Exception as error:  # noqa: BLE001 - told below
                faults.append((name, error))
            counts[name] += 1

    threads = [threading.Thread(target=client, args=(name,)) for name in counts for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert server.put("late", packed(server, "late"))[0] == 201
        assert server.put("late", packed(server, "late"))[1]["change"] == "same"
        assert (server.folder / "late.hz").read_bytes() == packed(server, "late")
        found = server.predict("late", 0)
        assert found == pytest.approx(server.wanted["late"][0], abs=1e-5)
        assert server.ask("DELETE", "/clones/late")[0] == 200
        assert not (server.folder / "late.hz").exists()
        assert server.ask("POST", "/clones/late/predict", server.images[0])[0] == 404
        (server.folder / "file.hz").write_bytes(packed(server, "late")[:-9])  # still being copied
        server.until(lambda told: "file.hz" in told["refused"])
        (server.folder / "file.hz").write_bytes(packed(server, "late"))
        server.until(lambda told: "file" in [c["name"] for c in told["clones"]])
        assert server.predict("file", 1) == pytest.approx(server.wanted["late"][1], abs=1e-5)
        (server.folder / "file.hz").unlink()
        server.until(lambda told: "file" not in [c["name"] for c in told["clones"]])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert min(counts.values()) > 3
    metrics = server.ask("GET", "/metrics")[1]
    alone, batches = (
        re.search(rf"huozi_batch_images_{what} (\S+)", metrics)[1] for what in ('bucket{le="1"}', "count")
    )
    assert int(alone) < int(batches)  # requests of different clones ran together


def test_a_file_that_is_refused_takes_nothing_away(server: Served) -> None:
    before = packed(server, "one")
    (server.folder / "one.hz").write_bytes(before[:-20])
    server.until(lambda told: "damaged in probe" in told["refused"].get("one.hz", ""))
    assert server.predict("one", 2) == server.wanted["one"][2]
    (server.folder / "one.hz").write_bytes(before)
    server.until(lambda told: not told["refused"])
    (server.folder / "a b.hz").write_bytes(before)
    server.until(lambda told: "is no name of a clone" in told["refused"].get("a b.hz", ""))
    (server.folder / "a b.hz").unlink()
    server.until(lambda told: not told["refused"])


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
    "no such count": (422, ("POST", "/clones/one/predict?top_k=0", png(0)), "top_k=0: expected 1 or more"),
    "no number": (422, ("POST", "/clones/one/predict?top_k=x", png(0)), "top_k: "),
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


def test_damaged_and_foreign_clones_are_refused_by_name(server: Served, tmp_path: Path) -> None:
    content = packed(server, "late")
    status, told = server.put("new", content[:-10])
    assert (status, told["error"]) == (
        422,
        "new.hz: damaged in probe (cut short, or a bit has flipped): have it sent again",
    )
    (tmp_path / "zoo.yaml").write_text(ZOO.replace("  rare:", "  odd:"))
    networks = FrozenNetworks(read_zoo(tmp_path / "zoo.yaml"))
    pack(ClonedNetwork(networks("low"), "abcf", [clone(networks("odd"), "f")], [None]), tmp_path / "foreign.hz")
    status, told = server.put("new", (tmp_path / "foreign.hz").read_bytes())
    assert (status, told["error"]) == (422, "new.hz: foreign: the zoo 'small' has no network 'odd'")
    (tmp_path / "zoo.yaml").write_text(ZOO.replace("channels: [4, 4, 8, 8]", "channels: [4, 4, 8, 12]"))
    networks = FrozenNetworks(read_zoo(tmp_path / "zoo.yaml"))
    pack(ClonedNetwork(networks("low"), "abcf", [clone(networks("rare"), "f")], [None]), tmp_path / "other.hz")
    status, told = server.put("new", (tmp_path / "other.hz").read_bytes())
    assert status == 422
    assert "network 'rare': the blueprint was made with sha256:" in told["error"]
    assert "new" not in [c["name"] for c in server.ask("GET", "/clones")[1]["clones"]]


def test_only_this_machine_is_answered_and_no_page_of_others(server: Served) -> None:
    assert server.ask("GET", "/health", host="evil.example")[0] == 421
    assert server.ask("GET", "/health", host=f"localhost:{server.port}")[0] == 200
    assert server.ask("GET", "/health", host="[::1]")[0] == 200


def documented() -> list[list[str]]:
    """The words of all commands in docs/serving.md."""
    text = (PROJECT / "docs" / "serving.md").read_text()
    lines = [
        line.partition("  #")[0]
        for body in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
        for line in body.splitlines()
    ]
    return [shlex.split(line) for line in lines if line]


def test_every_documented_command_runs(server: Served, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    networks = FrozenNetworks(read_zoo(server.folder.parent / "zoo.yaml"))
    for name, source, gained in (("even", "high", "d"), ("odd", "rare", "f")):
        pack(
            ClonedNetwork(networks("low"), ["a", "b", "c", gained], [clone(networks(source), gained)], [None]),
            f"{name}.hz",
        )
    Path("digit.png").write_bytes(server.images[0])
    Path("clones").mkdir()
    ran = []
    for program, *words in documented():
        if program == "curl":
            assert curl(server, words) in (200, 201), words
        elif words[:3] == ["-m", "cloning", "serve"]:
            assert serve_options(words[3:]).clones == Path("clones")
        elif words[:2] == ["-m", "cloning"]:
            zoo = [] if words[2] == "list" else ["--zoo", str(server.folder.parent / "zoo.yaml")]
            assert main([*(word if word != "resnext_low" else "low" for word in words[2:]), *zoo]) == 0, words
        ran.append((program, *words[:3]))
    assert len(ran) >= 10


def serve_options(words: list[str]) -> argparse.Namespace:
    """What the command takes them for."""
    parser = argparse.ArgumentParser()
    command = add_arguments(parser.add_subparsers())
    command.add_argument("--zoo")
    return parser.parse_args(["serve", *words])


def curl(server: Served, words: list[str]) -> int:
    """The status that a curl command gets; of its options those that the page uses."""
    method, body, headers, address = "", None, {}, ""
    rest = iter(words)
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name.lower()] = value
        elif word == "--data-binary":
            body = Path(next(rest).removeprefix("@")).read_bytes()
        else:
            address = word
    path = address.removeprefix("http://127.0.0.1:8000")
    assert path.startswith("/"), address
    kind = headers.pop("content-type", "")
    return server.ask(method or ("POST" if body is not None else "GET"), path, body, kind, **headers)[0]


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(server: Served) -> None:
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    body = server.images[0]
    head = ["POST /clones/one/predict HTTP/1.1", "Host: localhost", "Content-Type: image/png"]
    slow.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body[:10])
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    slow.sendall(body[10:])
    answer = http.client.HTTPResponse(slow)
    answer.begin()
    assert answer.status == 200
    assert json.loads(answer.read())["predictions"]
    slow.close()
    assert server.process.wait(60) == 0
    assert re.search(r"^stopped: [\d,]+ images answered$", server.process.stdout.read(), re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clones", "zoo.yaml"), "--clones=zoo.yaml is a file: give a folder of packed clones"),
        (("--clones", "new", "--zoo", "nowhere"), "there is no zoo 'nowhere'"),
        (("--clones", "new", "--port", "99999"), "--port=99999: expected 0 (a free one) to 65535"),
        (("--clones", "new", "--host", "203.0.113.1"), "--host=203.0.113.1 --port=8000 cannot be listened on"),
        (("--clones", "new", "--poll", "nan"), "--poll=nan: expected seconds from 0.05 to 3600"),
        (("--clones", "new", "--batch-size", "0"), "--batch-size=0: expected 1 or more"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch, capsys, words: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zoo.yaml").write_text(ZOO)
    assert main(["serve", "--zoo", "zoo.yaml", *words]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert message in printed.err
