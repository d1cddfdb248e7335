"""A model server on this machine that speaks Chat Completions and Messages, and behaves as badly as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-planted-4f9c1e7a"


@dataclass(frozen=True)
class Reply:
    """What to answer: `cut_after` bytes the connection ends, `drip` sends a byte at a time until it is let go."""

    body: object = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    drip: bool = False
    hang: bool = False

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, object]


class ModelServer:
    """Remembers each request; `answer` makes of it a reply."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda request: Reply({})
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                outer.requests.append(request)
                with contextlib.suppress(OSError):  # the client has gone
                    self._send(outer.answer(request))

            def _send(self, reply: Reply) -> None:
                if reply.hang:
                    outer.let_go.wait(30)
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.data)))
                self.end_headers()
                if reply.drip:
                    for at in range(len(reply.data)):
                        self.wfile.write(reply.data[at : at + 1])
                        if outer.let_go.wait(0.02):
                            return
                self.wfile.write(reply.data[: reply.cut_after])

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
