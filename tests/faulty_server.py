"""A web server on this machine with the faults of real ones."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What a server serves, how it fails, and what it was asked.

    faults: for each file, a fault for each request in turn, then none:
        drop (closes after half of the rest), stall (sends half of the rest, then nothing), wrong (changes a byte),
        longer (sends a byte more), page (a web page instead), or a status code.
    """

    url: str
    files: dict[str, bytes]
    faults: dict[str, list[str | int]] = field(default_factory=dict)
    ranges: bool = True
    bytes_per_second: float = float("inf")
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # file, Range
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.strip("/"), self.headers.get("Range")
            site.requests.append((name, wanted))
            faults = site.faults.get(name, [])
            fault = faults.pop(0) if faults else None
            if name not in site.files:
                fault = 404
            if isinstance(fault, int):
                self.answer(fault, b"")
            elif fault == "page":
                self.answer(200, b"<html>log in</html>", **{"Content-Type": "text/html"})
            else:
                self.send(site.files[name], int(wanted[6:-1]) if wanted and site.ranges else 0, fault)

        def send(self, content: bytes, start: int, fault: str | None) -> None:
            if start >= len(content):
                return self.answer(416, b"")
            body, headers = content[start:], {}
            if fault == "wrong":
                body = body[:-1] + bytes([body[-1] ^ 1])
            if fault == "longer":
                body += b"!"
            if start:
                headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            sent = body[: len(body) // 2] if fault in ("drop", "stall") else body
            self.answer(206 if start else 200, sent, len(body), **headers)
            if fault == "stall":
                site.over.wait(10)
            self.close_connection = fault is not None
            return None

        def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
            self.send_response(status)
            headers = {"Content-Type": "application/zip", "Content-Length": str(length or len(body))} | headers
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            for at in range(0, len(body), 10_000):
                self.wfile.write(body[at : at + 10_000])
                if site.bytes_per_second < float("inf"):
                    time.sleep(10_000 / site.bytes_per_second)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:  # the client was killed
            pass

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}/", files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
