"""A server of records on the loopback interface that misbehaves; a small fan."""

import hashlib
import io
import re
import threading
import zipfile
from contextlib import redirect_stderr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from wav_files import noise, put

from mimii_jax.data import download

NAME = "dev_data_fan.zip"
LENGTH = 40000  # noise, so that the archive is longer than what is written at once
DEV, ADDITIONAL, EVAL, LABELS = 3678171, 3727685, 3841772, 3951620


class RecordsServer(ThreadingHTTPServer):
    """Answers as Zenodo does; `plan` has for a path what goes wrong, one per request.

    "drop": sends half of what is left and closes; "no range": sends all; "wrong": other
    bytes; "short": says that it is all, and is not; "redirect": to another path of this
    server; "elsewhere": from another byte than was asked for; a number: that status;
    (number, text): with Retry-After.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content: dict[str, bytes] = {}
        self.plan: dict[str, list] = {}
        self.asked: list[tuple[str, str]] = []

    def publish(self, record: int, name: str, data: bytes) -> str:
        """Put a file into a record and pin its sum; returns its path."""
        path = f"/records/{record}/files/{name}"
        self.content[path] = data
        download.REGISTRY[name] = (hashlib.md5(data).hexdigest(), len(data))
        return path

    def ranges(self, path: str) -> list[str]:
        """The ranges that were asked of a path, "" for all of it."""
        return [asked for where, asked in self.asked if where == path]

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: RecordsServer

    def log_message(self, format, *args):
        """Say nothing."""

    def do_GET(self):
        path = self.path.partition("?")[0].removeprefix("/elsewhere")
        asked = self.headers.get("Range", "")
        self.server.asked.append((path, asked))
        plan = self.server.plan.get(path, [])
        fault = plan.pop(0) if plan else None
        if fault == "redirect":
            return self.answer(302, b"", Location=f"/elsewhere{self.path}")
        if isinstance(fault, int | tuple):
            status, wait = fault if isinstance(fault, tuple) else (fault, None)
            return self.answer(status, b"", **({"Retry-After": wait} if wait else {}))
        if path not in self.server.content:
            return self.answer(404, b"no such thing")
        return self.send(self.server.content[path], asked, fault)

    def send(self, data, asked, fault):
        """Answer with content, whole or from the byte that is asked for."""
        first = re.fullmatch("bytes=([0-9]+)-", asked)
        start = int(first[1]) if first and fault != "no range" else 0
        start += 10 if start and fault == "elsewhere" else 0
        if start and start >= len(data):
            return self.answer(416, b"")
        rest = data[start:]
        place = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if fault == "wrong":
            rest = bytes(255 - byte for byte in rest)
        if fault == "short":
            rest = rest[: len(rest) // 2]
        part = rest[: len(rest) // 2] if fault == "drop" else rest
        more = place if start else {}
        return self.answer(206 if start else 200, part, len(rest), **more)

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of these files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def fan_clips(folder):
    """Name -> bytes of small recordings of a fan, by split."""
    names = {
        "dev": [
            *(f"train/normal_id_00_{n:08d}.wav" for n in range(4)),
            *(
                f"test/{k}_id_00_{n:08d}.wav"
                for k in ("normal", "anomaly")
                for n in (0, 1)
            ),
        ],
        "additional": [f"train/normal_id_01_{n:08d}.wav" for n in range(4)],
        "eval": [f"test/id_01_{n:08d}.wav" for n in range(4)],
    }
    seeds = iter(range(100))
    return {
        split: {
            f"fan/{name}": put(folder, "x.wav", noise(next(seeds), LENGTH)).read_bytes()
            for name in of
        }
        for split, of in names.items()
    }


def get(server, out, *more, machine="fan", split=("dev",)):
    download.main(
        [
            *("--machine", machine, "--split", *split),
            *("--out", str(out), "--base-url", server.url, *more),
        ]
    )


def failure(server, out, **options):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as stop, redirect_stderr(io.StringIO()) as text:
        get(server, out, **options)
    assert stop.value.code == 1
    lines = text.getvalue().splitlines()
    assert [line.startswith("error: ") for line in lines].index(True) == len(lines) - 1
    return lines[-1]


def require_whole(out, clips, *splits):
    """All files are there and right, and nothing else is but the receipts."""
    expected = {k: v for split in splits for k, v in clips[split].items()}
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.glob("fan/**/*")
        if path.is_file()
    }
    assert found == expected
    assert {path.suffix for path in (out / "archives").glob("[!.]*")} == {".json"}
