"""A page on this machine where one drops a picture, types, and sees what a model answers: `predict.py --serve`.

The server listens on 127.0.0.1 alone. It has one page and one address for questions, and serves no file: what the
browser sends never names a path. Other web pages in the same browser cannot ask: a question has to be JSON, to come
from the page's own origin, and to be sent to this machine's own name. The standard library is enough for this.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from grounding.answer import Answer
from grounding.errors import FoveaError, UsageError
from grounding.targets import Box
from reports.answer_drawing import pixels_of, region_of_turn, shown_in_turn
from reports.charts import PAGES
from reports.gallery import data_uri

PORT = 7860
MOST_BYTES = 256 << 20  # of a question with its files
SIDE = 1600  # pixels of the longer side of a picture in the page
HOSTS = ("127.0.0.1", "localhost")
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
AnswerQuestion = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def serve(port: int, facts: Mapping[str, Any], answer: AnswerQuestion) -> None:
    """Serve the page until Ctrl-C.

    Args:
        port: 0 is any that is free.
        facts: model, kinds, kind, tools: what the page says.
        answer: of a question (`asked_files`), one at a time; what it raises as `FoveaError` the page shows.

    Raises:
        UsageError: the port is taken.
    """
    server = open_server(port, facts, answer)
    sys.stdout.write(f"open http://127.0.0.1:{server.server_port} in a browser; Ctrl-C stops it\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.stdout.write("\nstopped\n")
    finally:
        server.server_close()


def open_server(port: int, facts: Mapping[str, Any], answer: AnswerQuestion) -> ThreadingHTTPServer:
    """The server, listening and not yet serving. Raises as `serve`."""
    page = PAGES.get_template("predict.html").render(**facts).encode()
    one_at_a_time = threading.Lock()

    class Handler(PageHandler):
        content = page

        @staticmethod
        def reply(body: Mapping[str, Any]) -> Mapping[str, Any]:
            with one_at_a_time:
                start = time.monotonic()
                return {**answer(body), "seconds": round(time.monotonic() - start, 2)}

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "no port"
        raise UsageError(f"--serve {port}: {why}; give another port, or 0 for any that is free") from error


class PageHandler(BaseHTTPRequestHandler):
    """One page at `/`, one address for questions at `/answer`."""

    content = b""
    timeout = 60  # seconds a browser may say nothing
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Fovea", ""

    @staticmethod
    def reply(body: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError

    def do_GET(self) -> None:
        if not self._is_ours():
            self._send(403, {"error": "this page is for this machine only"})
        elif self.path != "/":
            self._send(404, {"error": "there is one page here: /"})
        else:
            self._send(200, self.content)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        self.close_connection = True  # what of a refused question is unread must not be taken for the next one
        if not self._is_ours():
            self._send(403, {"error": "this page is for this machine only"})
        elif self.path != "/answer":
            self._send(404, {"error": "questions go to /answer"})
        elif self.headers.get_content_type() != "application/json" or not length.isdecimal():
            self._send(400, {"error": "a question is JSON, of a known length"})
        elif int(length) > MOST_BYTES:
            self._send(413, {"error": f"more than {MOST_BYTES >> 20} MiB"})
        else:
            self._send(*self._answered(self.rfile.read(int(length))))

    def _answered(self, data: bytes) -> tuple[int, Mapping[str, Any]]:
        try:
            body = json.loads(data)
            if not isinstance(body, dict):
                raise UsageError("a question is a JSON object")
            return 200, self.reply(body)
        except FoveaError as error:
            return 400, {"error": str(error)}
        except json.JSONDecodeError as error:
            return 400, {"error": f"not JSON: {error}"}
        except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            self.log_error("%s: %s", type(error).__name__, error)  # the page stays usable, the terminal says it too
            return 500, {"error": f"the model failed: {type(error).__name__}: {error}"}

    def _is_ours(self) -> bool:
        """Whether the request was sent to this machine by its own name, and by this page or by no page."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        own = urlsplit(f"//{host}").hostname in HOSTS
        return own and (origin is None or urlsplit(origin).netloc == host)

    def _send(self, code: int, content: bytes | Mapping[str, Any]) -> None:
        page = isinstance(content, bytes)
        data = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        self.send_response(code)
        headers = {
            "Content-Type": "text/html; charset=utf-8" if page else "application/json; charset=utf-8",
            "Content-Length": str(len(data)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *words: Any) -> None:
        """Requests are not told; `log_error` is."""

    def log_error(self, format: str, *words: Any) -> None:
        sys.stderr.write(f"error: {format % words}\n")


def asked_files(body: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a question; names only tell what a file is. Raises UsageError."""
    files = body.get("files")
    if not isinstance(files, list):
        raise UsageError("files: a list of {name, data} is needed")
    for file in files:
        try:
            name, data = file["name"], base64.b64decode(file["data"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError) as error:
            raise UsageError(f"files: {{name, data}} with data in base64 is needed: {error}") from error
        yield str(name)[:200], data


def answer_row(
    images: Sequence[Image.Image],
    text: str,
    answer: Answer,
    turns: Sequence[Mapping[str, Any]],
    *,
    heat: Sequence[np.ndarray] | str,
    times: Sequence[float] = (),
) -> dict[str, Any]:
    """An answer as the page draws it: places in [0, 1], pictures as data URIs, heat in 0 to 255.

    Args:
        turns: as `Output.episode` has them; the last is the answer.
        heat: (rows, columns) in [0, 1] of each image; or why there is none.
        times: seconds of the images, where they are frames.
    """
    regions = []
    for region in (*answer.boxes, *answer.points):
        kind, pixels = pixels_of(region, images[region.image].size)
        coords = list(region.xyxy) if isinstance(region, Box) else [region.x, region.y]
        own = {"kind": kind, "image": region.image, "coords": coords, "pixels": pixels, "label": region.label}
        regions.append(own)
    told = []
    for turn in turns[:-1]:
        place, shown = region_of_turn(turn), shown_in_turn(images, turn)
        coords = None if place is None else list(turn["region"])
        told.append(
            {
                "text": turn["text"],
                "tool": turn["tool"],
                "reply": turn["reply"],
                "error": turn["error"],
                "image": turn["image"],
                "coords": coords,
                "shown": None if shown is None else data_uri(shown),
            }
        )
    maps = [] if isinstance(heat, str) else heat
    return {
        "output": text,
        "status": answer.status.value,
        "regions": regions,
        "spans": [[span.start, span.end] for span in answer.spans],
        "text": answer.text,
        "absent": answer.absent,
        "turns": told,
        "images": [
            {"width": image.width, "height": image.height, "source": data_uri(image, SIDE)} for image in images
        ],
        "times": list(times),
        "heat": [
            {"rows": own.shape[0], "columns": own.shape[1], "values": np.rint(255 * own).astype(int).ravel().tolist()}
            for own in maps
        ],
        "no_heat": heat if isinstance(heat, str) else "",
    }
