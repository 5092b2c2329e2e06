"""A stand-in of the HTTP interface of the Hugging Face hub, on the loopback interface, as far as an upload needs it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the hub holds, and how it is disposed.

    Attributes:
        url: Where it listens.
        repositories: Files by repository.
        objects: Large files by their sha256.
        token: That may write.
        refuse: By part of a path the status that is answered instead.
        commits: Headers of the commits that were made.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    token: str = "hf_good"
    refuse: dict[str, int] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers while inside."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

        def answer(self, status: int, content: Any = None) -> None:
            body = json.dumps(content if content is not None else {}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def handle_any(self) -> None:
            body, path = self.body(), self.path
            for part, status in state.refuse.items():
                if part in path:
                    return self.answer(status, {"error": "refused"})
            is_upload = path.startswith("/objects/")  # whose address alone is the permission
            if not is_upload and self.headers.get("Authorization") != f"Bearer {state.token}":
                return self.answer(401, {"error": "Invalid username or password."})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if name in state.repositories:
                    return self.answer(409, {"error": "You already created this repo", "url": f"{state.url}/{name}"})
                state.repositories[name] = {}
                return self.answer(200, {"url": f"{state.url}/{name}", "name": name})
            if "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = [("lfs" if f["path"].endswith(".safetensors") else "regular") for f in files]
                told = [
                    {"path": f["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
                    for f, mode in zip(files, modes, strict=True)
                ]
                return self.answer(200, {"files": told})
            if path.endswith("/objects/batch"):
                wanted = json.loads(body)["objects"]
                hrefs = [f"{state.url}/objects/{each['oid']}" for each in wanted]
                actions = [
                    {**each, "actions": {"upload": {"href": href, "header": {}}}}
                    for each, href in zip(wanted, hrefs, strict=True)
                ]
                return self.answer(200, {"transfer": "basic", "objects": actions})
            if path.startswith("/objects/"):
                state.objects[path.rpartition("/")[2]] = body
                return self.answer(200)
            if "/commit/" in path:
                name = path.removeprefix("/api/models/").partition("/commit/")[0]
                lines = [json.loads(line) for line in body.splitlines()]
                files = state.repositories[name]
                for line in lines:
                    value = line["value"]
                    if line["key"] == "header":
                        state.commits.append(value)
                    elif line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = state.objects[value["oid"]]
                oid = f"{len(state.commits):040x}"
                return self.answer(
                    200, {"commitOid": oid, "commitUrl": f"{state.url}/{name}/commit/{oid}", "success": True}
                )
            if path == "/api/validate-yaml":
                return self.answer(200, {"warnings": [], "errors": []})
            return self.answer(404, {"error": f"nothing at {path}"})

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
