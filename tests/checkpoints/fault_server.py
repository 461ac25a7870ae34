"""A local HTTP server with configurable faults."""

import http.server
import threading
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Attributes:
        status: 200 (206 where a range is asked for and ``ranges``), or a refusal.
        cut: bytes of the content after which the connection is closed.
        announce: Content-Length, where it is a lie.
        pause: seconds before each 64 KB.
        ranges: whether parts can be asked for.
        encoding: Content-Encoding of the content, though nobody asked for it.
        part: Content-Range of a 206, where it is a lie; first: its first byte.
        etag: another one than the file's.
        headers: further ones; Location makes it a redirect.
        repeat: bytes sent first, bytes repeated without end, and seconds between them.
    """

    status: int = 200
    cut: int | None = None
    announce: int | None = None
    pause: float = 0.0
    ranges: bool = True
    encoding: str = ""
    part: str = ""
    first: int | None = None
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    repeat: tuple[bytes, bytes, float] | None = None


@dataclass
class FaultServer:
    """Serves what ``serve`` was told, and remembers what it was asked.

    Attributes:
        asked: path and Range header of each request, in order; headers: all of them.
    """

    address: str = ""
    pages: dict[str, tuple[bytes, str, list[Answer]]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def serve(self, path: str, content: bytes, *answers: Answer, etag: str = '"1"') -> str:
        """Answer requests for ``path`` by each of ``answers``, the last for ever; its address."""
        self.pages[path] = (content, etag, list(answers) or [Answer()])
        return f"{self.address}{path}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked_range = request.headers.get("Range", "")
        self.asked.append((request.path, asked_range))
        self.headers.append(dict(request.headers))
        if request.path not in self.pages:
            request.send_error(404)
            return
        content, etag, answers = self.pages[request.path]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.repeat:
            first, again, pause = answer.repeat
            request.wfile.write(first)
            while True:  # until the client closes the connection
                request.wfile.write(again)
                time.sleep(pause)
        if answer.status >= 300:
            request.send_response(answer.status)
            for name, value in answer.headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(asked_range[6:-1]) if asked_range and answer.ranges else 0
        if not answer.part and request.headers.get("If-Range", etag) != etag:
            start = 0
        if answer.first is not None:
            start = answer.first
        if start >= len(content) > 0:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        part = answer.part or f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.send_response(206 if start or answer.part else 200)
        if start or answer.part:
            request.send_header("Content-Range", part)
        if answer.encoding:
            request.send_header("Content-Encoding", answer.encoding)
        length = len(content) - start if answer.announce is None else answer.announce
        request.send_header("Content-Length", str(length))
        if answer.etag or etag:
            request.send_header("ETag", answer.etag or etag)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        request.end_headers()
        body = content[start:][: answer.cut]
        for at in range(0, len(body), 1 << 16):
            time.sleep(answer.pause)
            request.wfile.write(body[at : at + (1 << 16)])
        request.close_connection = True


def start_server() -> tuple[FaultServer, http.server.ThreadingHTTPServer]:
    """A server on a free port, running in a thread; shut the second down at the end."""
    faults = FaultServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                faults.answer(self)
            except OSError:  # the client has gone
                self.close_connection = True

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    faults.address = f"http://127.0.0.1:{running.server_address[1]}"
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    return faults, running
