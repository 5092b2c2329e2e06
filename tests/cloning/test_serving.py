"""``python -m cloning serve``: a real process, concurrent clients, files that come and go, and bad requests."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import shlex
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from cloning_stand_ins import ZOO, clone
from served import Served, packed

from cloning.__main__ import main
from cloning.bundle import pack
from cloning.frozen import FrozenNetworks
from cloning.network import ClonedNetwork
from cloning.serving.command import add_arguments
from zoo.registry import read_zoo

PROJECT = Path(__file__).parents[2]


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


def test_folders_and_links_to_nothing_are_refused_by_name(server: Served) -> None:
    folder, link = server.folder / "folder.hz", server.folder / "link.hz"
    folder.mkdir()
    link.symlink_to(server.folder.parent / "outside" / "gone.hz")
    try:
        server.until(lambda told: {"folder.hz", "link.hz"} <= told["refused"].keys())
        refused = server.ask("GET", "/clones")[1]["refused"]
        assert refused["folder.hz"].endswith("folder.hz: expected a file, but it is a directory")
        assert refused["link.hz"].endswith("link.hz: expected a file, but it does not exist")
        for method, body in (("PUT", packed(server, "one")), ("DELETE", None)):
            status, told = server.ask(method, "/clones/folder", body, "application/octet-stream")
            assert status == 422
            assert told["error"].startswith("folder.hz is a directory in the folder of clones: take it away there")
        assert server.put("link", packed(server, "one"))[0] == 201
        assert not link.is_symlink()
        assert not (server.folder.parent / "outside").exists()
        assert server.ask("DELETE", "/clones/link")[0] == 200
        assert not link.exists()
    finally:
        folder.rmdir()
        link.unlink(missing_ok=True)
    server.until(lambda told: not told["refused"])


def test_damaged_and_foreign_clones_are_refused_by_name(server: Served, tmp_path: Path) -> None:
    content = packed(server, "late")
    status, told = server.put("new", content[:-10])
    assert status == 422
    assert told["error"].startswith("new.hz: damaged in probe (cut short, or a bit has flipped): have it sent again")
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
