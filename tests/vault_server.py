"""A server that speaks Vault's KV protocol, version 2, as its documentation has it; it is no real Vault.

What it does not do: policies, leases, namespaces, audit devices, storage. What it can do besides: be sealed, be slow,
drip, redirect, talk nonsense, and refuse a token.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hvs.a-token-for-tests-only"


class VaultServer:
    """One mount, `secret`, on this machine."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, object]] = {}
        self.lock = threading.RLock()
        self.fault = ""
        self.token = TOKEN
        self.asked: list[tuple[str, str]] = []
        self.before_states = lambda: None
        """Called before each write of states is looked at: somebody else may be first there."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                server.asked.append((self.command, self.path))
                if server.fault and server.wrong(self):
                    return
                if self.headers.get("X-Vault-Token") != server.token:
                    self.say(403, {"errors": ["permission denied"]})
                    return
                self.say(*server.serve(self.command, self.path, body))

            def say(self, status, told):
                text = b"" if told is None else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = do_LIST = _answer  # noqa: N815 - the names of the base class

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def wrong(self, handler) -> bool:
        """Answer as the fault has it."""
        if self.fault == "sealed":
            handler.say(503, {"errors": ["Vault is sealed"]})
        elif self.fault == "redirecting":
            handler.send_response(307)
            handler.send_header("Location", self.url + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        elif self.fault == "slow":
            time.sleep(0.8)
            handler.close_connection = True
        elif self.fault == "dripping":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            for _ in range(20):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)
            handler.close_connection = True
        elif self.fault == "endless":
            handler.send_response(200)
            handler.send_header("Content-Length", "3000000")
            handler.end_headers()
            handler.wfile.write(b" " * 3_000_000)
        elif self.fault == "nonsense":
            handler.send_response(200)
            handler.send_header("Content-Length", "6")
            handler.end_headers()
            handler.wfile.write(b"<html>")
        elif self.fault == "empty":
            handler.say(200, {})
        elif self.fault == "broken":
            handler.say(500, {"errors": ["1 error occurred"]})
        else:
            return False
        return True

    def serve(self, method: str, path: str, body: dict) -> tuple[int, object]:
        split = urlsplit(path)
        parts = unquote(split.path).split("/", 4)
        if parts[1:3] != ["v1", "secret"] or len(parts) < 5:
            return 404, {"errors": []}
        kind, at = parts[3], parts[4]
        if kind == "data" and method == "POST" and at.endswith("/states"):
            self.before_states()
        with self.lock:
            if (kind, method) == ("data", "GET"):
                return self._read(at, int(parse_qs(split.query).get("version", ["0"])[0]))
            if (kind, method) == ("data", "POST"):
                return self._write(at, body)
            if (kind, method) == ("metadata", "LIST"):
                return self._list(at)
            if (kind, method) == ("metadata", "POST"):
                self._entry(at)["max"] = body["max_versions"]
                return 204, None
            if (kind, method) == ("destroy", "POST"):
                for number in body["versions"]:
                    self._entry(at)["versions"][number] = None
                return 204, None
        return 405, {"errors": ["unsupported operation"]}

    def _entry(self, at: str) -> dict:
        return self.entries.setdefault(at, {"versions": {}, "max": 10})

    def _read(self, at: str, number: int) -> tuple[int, object]:
        versions = self.entries.get(at, {"versions": {}})["versions"]
        number = number or max(versions, default=0)
        if number not in versions:
            return 404, {"errors": []}
        if versions[number] is None:
            return 404, {"data": {"data": None, "metadata": {"version": number, "destroyed": True}}}
        return 200, {"data": {"data": versions[number], "metadata": {"version": number}}}

    def _write(self, at: str, body: dict) -> tuple[int, object]:
        entry = self._entry(at)
        last = max(entry["versions"], default=0)
        cas = body.get("options", {}).get("cas")
        if cas is not None and cas != last:
            return 400, {"errors": ["check-and-set parameter did not match the current version"]}
        entry["versions"][last + 1] = body["data"]
        for number in [n for n in entry["versions"] if n <= last + 1 - entry["max"]]:
            del entry["versions"][number]
        return 200, {"data": {"version": last + 1}}

    def _list(self, at: str) -> tuple[int, object]:
        below = [path.removeprefix(f"{at}/") for path in self.entries if path.startswith(f"{at}/")]
        keys = sorted({p.split("/", 1)[0] + ("/" if "/" in p else "") for p in below})
        return (200, {"data": {"keys": keys}}) if keys else (404, {"errors": []})
