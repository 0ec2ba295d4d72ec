"""A llama-server that goes wrong on purpose: the real one, behind a proxy that spoils chosen chat replies.

Arguments: the real executable, a file with the plan (JSON: number of the question → what happens to its attempts), and
llama-server's own words.  The plan is read for each request; "ok" lets a reply through.  The body of each chat request is
written beside the plan.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.ports import unasked_port


def die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on; chat replies may be spoiled."""

    upstream = ""
    plan_file = Path()
    server: Any
    process: subprocess.Popen[bytes]
    questions: dict[str, int] = {}  # noqa: RUF012
    attempts: dict[int, int] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        self.pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            self.pass_on(body)
            return
        with self.plan_file.with_suffix(".bodies").open("ab") as bodies:
            bodies.write(body + b"\n")
        number = self.questions.setdefault(json.dumps(json.loads(body)["messages"]), len(self.questions))
        attempt = self.attempts[number] = self.attempts.get(number, -1) + 1
        faults = json.loads(self.plan_file.read_text()).get(str(number), ["ok"])
        getattr(self, "fault_" + faults[min(attempt, len(faults) - 1)])(body)

    def ask(self, body: bytes | None) -> tuple[int, bytes]:
        request = urllib.request.Request(self.upstream + self.path, body)  # noqa: S310
        try:
            with urllib.request.urlopen(request) as response:  # noqa: S310
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except urllib.error.URLError:
            return 503, b"{}"

    def pass_on(self, body: bytes | None) -> None:
        self.answer(*self.ask(body))

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def spoiled(self, body: bytes, **changes: Any) -> None:
        value = json.loads(self.ask(body)[1])
        message = {key: changes.pop(key) for key in ("content", "reasoning_content") if key in changes}
        value["choices"][0]["message"] |= message
        value["choices"][0] |= {key: changes.pop(key) for key in ("finish_reason",) if key in changes}
        self.answer(200, json.dumps(value | changes).encode())

    def fault_ok(self, body: bytes) -> None:
        self.pass_on(body)

    def fault_parser(self, _body: bytes) -> None:
        message = "The model produced output that does not match the expected peg-gemma4 format"
        self.answer(500, json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}).encode())

    def fault_busy(self, _body: bytes) -> None:
        self.answer(503, b"busy")

    def fault_empty(self, body: bytes) -> None:
        self.spoiled(body, content="", finish_reason="stop")

    def fault_null_content(self, body: bytes) -> None:
        self.spoiled(body, content=None, finish_reason="stop")

    def fault_prose(self, body: bytes) -> None:
        self.spoiled(body, content="I would rather not say.", finish_reason="stop")

    def fault_half(self, body: bytes) -> None:
        self.spoiled(body, content="", reasoning_content="The colour", finish_reason="length")

    def fault_surrogate(self, body: bytes) -> None:
        self.spoiled(body, content="\ud800 The answer is (A).\u2028", finish_reason="stop")

    def fault_other_model(self, body: bytes) -> None:
        self.spoiled(body, model="another")

    def fault_null(self, _body: bytes) -> None:
        self.answer(200, b"null")

    def fault_no_choices(self, body: bytes) -> None:
        self.spoiled(body, choices=[])

    def fault_torn_json(self, body: bytes) -> None:
        self.answer(200, self.ask(body)[1][:40])

    def fault_short_body(self, body: bytes) -> None:
        content = self.ask(body)[1]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + 100))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def fault_slow(self, body: bytes) -> None:
        time.sleep(60)
        self.pass_on(body)

    def fault_trickle(self, _body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            for _ in range(600):
                self.wfile.write(b" ")
                time.sleep(0.1)
        except OSError:
            return

    def fault_reset(self, _body: bytes) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = self.rfile = open(os.devnull, "wb")  # noqa: SIM115, PTH123  # nothing may be written any more

    def fault_stray_channel(self, body: bytes) -> None:
        """The real server's own parser failure: a grammar makes the model open a channel that the format does not know."""
        self.pass_on(json.dumps(json.loads(body) | {"grammar": 'root ::= "<|channel>" "The" " answer"'}).encode())

    def fault_die(self, _body: bytes) -> None:
        self.process.kill()
        os._exit(9)

    def log_message(self, *_words: Any) -> None:
        pass


def main(binary: str, plan: str, words: list[str]) -> None:
    port = int(words[words.index("--port") + 1])
    behind = unasked_port()
    words[words.index("--port") + 1] = str(behind)
    process = subprocess.Popen([binary, *words], preexec_fn=die_with_parent)  # noqa: PLW1509
    signal.signal(signal.SIGTERM, lambda *_: (process.kill(), os._exit(0)))
    Proxy.upstream, Proxy.plan_file, Proxy.process = f"http://127.0.0.1:{behind}", Path(plan), process
    server = ThreadingHTTPServer(("127.0.0.1", port), Proxy)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
