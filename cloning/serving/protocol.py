"""What the web server itself refuses before any route sees it, told like everything else."""

from __future__ import annotations

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class JsonProtocol(H11Protocol):
    """HTTP/1.1 whose answer to what is no request (a broken head, length or chunk) is one line of JSON, too."""

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is on its way already
            body = json.dumps({"error": "not a request of HTTP/1.1: its head, length or chunks are broken"}).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            head = h11.Response(status_code=400, headers=list(headers.items()))
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()
