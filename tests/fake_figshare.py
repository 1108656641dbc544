"""A web server on this machine that behaves as figshare does, and as badly as it is told to."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class FakeFigshare:
    """One article with some files.

    Attributes:
        files: name -> content.
        article: its number.
        listed: name -> what the list of files says otherwise than the truth, e.g. {"a.zip": {"size": 3}}.
        knows_ranges: whether a part of a file can be asked for.
        breaks_off: how many of the next downloads end after half of what they should send.
        answers: HTTP statuses of the next requests, before it behaves.
        refuses_programs: the API's own download address answers 202 and nothing.
        requests: (path, Range header) of all requests so far.
    """

    def __init__(self, files: dict[str, bytes], *, article: int = 7) -> None:
        self.files = files
        self.article = article
        self.listed: dict[str, dict] = {}
        self.knows_ranges = True
        self.breaks_off = 0
        self.answers: list[int] = []
        self.refuses_programs = False
        self.requests: list[tuple[str, str | None]] = []
        self.api = ""

    @property
    def asked(self) -> Counter:
        """How often each path was asked for."""
        return Counter(path.partition("?")[0] for path, _ in self.requests)

    def entries(self) -> list[dict]:
        return [
            {
                "id": number,
                "name": name,
                "size": len(content),
                "is_link_only": False,
                "download_url": f"{self.api}/browser/{number}",
                "supplied_md5": hashlib.md5(content).hexdigest(),
                "computed_md5": hashlib.md5(content).hexdigest(),
                **self.listed.get(name, {}),
            }
            for number, (name, content) in enumerate(self.files.items())
        ]


@contextmanager
def serving(figshare: FakeFigshare) -> Iterator[FakeFigshare]:
    """Serve it at `figshare.api` on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            figshare.requests.append((self.path, self.headers.get("Range")))
            if figshare.answers:
                self.empty(figshare.answers.pop(0))
            elif match := re.fullmatch(rf"/articles/{figshare.article}/files\?page=(\d+)&page_size=(\d+)", self.path):
                page, size = map(int, match.groups())
                content = json.dumps(figshare.entries()[(page - 1) * size : page * size]).encode()
                self.send(200, content, content)
            elif match := re.fullmatch(r"/(file/download|browser)/(\d+)", self.path):
                if figshare.refuses_programs and match[1] == "file/download":
                    self.empty(202)
                else:
                    self.file(list(figshare.files.values())[int(match[2])])
            else:
                self.empty(404)

        def file(self, content: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(asked[1]) if asked and figshare.knows_ranges else 0
            rest = content[start:]
            if figshare.breaks_off:
                figshare.breaks_off -= 1
                sent = rest[: len(rest) // 2]
            else:
                sent = rest
            if start:
                self.send(206, rest, sent, f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send(200, rest, sent)

        def send(self, status: int, promised: bytes, sent: bytes, content_range: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(promised)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            self.wfile.write(sent)
            self.close_connection = True

        def empty(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    figshare.api = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield figshare
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
