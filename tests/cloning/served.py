"""A server of cloned networks in a process of its own, and what its clones have to say."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from cloning_stand_ins import ZOO, adapter, clone
from PIL import Image

import deploy
from cloning.bundle import pack
from cloning.frozen import FrozenNetworks
from cloning.network import ClonedNetwork
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
