"""Weights from the network: whole, of a size that is allowed, and with the digest asked for."""

import hashlib
import http.server
import io
import os
import re
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.weights import drawn, write

from opponent.models import download, registry
from opponent.models.download import cache_folder, fetch_checked
from opponent.models.inceptionv1 import InceptionV1
from opponent.models.registry import INCEPTION5H_SHA256, load

VARIABLE = "OPPONENT_TEST_SHA256"
LIMIT = 4000
CONTENT = bytes(range(256)) * 9


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPPONENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, sha256(CONTENT))
    monkeypatch.delenv(INCEPTION5H_SHA256, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A web server that answers as it is told."""
    told: dict[str, Any] = {"status": 200, "headers": {}, "body": b"", "calls": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told["calls"] += 1
            self.send_response(told["status"])
            for key, value in told["headers"].items():
                self.send_header(key, value)
            self.end_headers()
            with suppress(ConnectionError):  # the other side may have had enough
                self.wfile.write(told["body"])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/weights.pth", told
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (404, {"Content-Length": "0"}, b"", "404"),
        (503, {"Content-Length": "4"}, b"busy", "503"),
        (200, {"Content-Length": "1000"}, b"x" * 999, "999 of 1000 bytes|IncompleteRead"),
        (200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n9\r\nwor", "IncompleteRead"),
        (200, {"Content-Length": "4001"}, b"x" * 4001, "4001 bytes are announced, at most 4000"),
        (200, {}, b"x" * 4001, "more than 4000 bytes came"),
        (200, {"Content-Length": "many"}, b"x" * 4001, "more than 4000 bytes came"),
    ],
)
def test_a_download_is_whole_or_not_there(
    cache: Path, server: Any, status: int, headers: dict[str, str], body: bytes, reason: str
) -> None:
    address, told = server
    told |= {"status": status, "headers": headers, "body": body}
    with pytest.raises(OSError, match=rf"weights.pth could not be downloaded .*({reason})"):
        fetch_checked(address, VARIABLE, LIMIT)
    assert list(cache.iterdir()) == []
    told |= {"status": 200, "headers": {"Content-Length": str(len(CONTENT))}, "body": CONTENT}
    file = fetch_checked(address, VARIABLE, LIMIT)
    assert file == cache / "weights.pth"
    assert file.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [file]
    # What has come once is not fetched again.
    told["body"] = b""
    assert fetch_checked(address, VARIABLE, LIMIT).read_bytes() == CONTENT
    assert told["calls"] == 2


def test_what_is_too_long_is_not_read_to_its_end(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.BytesIO):
        headers = {"Content-Length": None}  # noqa: RUF012
        given = 0

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size > 0
            Endless.given += size
            return bytes(size)

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Endless())
    with pytest.raises(OSError, match="more than 5000000 bytes came"):
        fetch_checked("https://example.org/w.pth", VARIABLE, 5_000_000)
    assert Endless.given < 7_000_000
    assert list(cache.iterdir()) == []


def test_without_a_digest_nothing_is_loaded_and_the_message_gives_the_one_found(
    cache: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, told = server
    told["body"] = CONTENT
    monkeypatch.delenv(VARIABLE)
    for _ in range(2):
        with pytest.raises(OSError, match="nothing says that it is the right one") as caught:
            fetch_checked(address, VARIABLE, LIMIT)
        assert f"set {VARIABLE}={sha256(CONTENT)}, or name a file of your own as MODEL=FILE" in str(
            caught.value
        )
        assert "\n" not in str(caught.value)
    assert told["calls"] == 1
    monkeypatch.setenv(VARIABLE, f" {sha256(CONTENT).upper()}\n")
    assert fetch_checked(address, VARIABLE, LIMIT) == cache / "weights.pth"
    assert told["calls"] == 1


def test_another_file_than_the_one_asked_for_is_not_kept_nor_taken_from_the_cache(
    cache: Path, server: Any
) -> None:
    address, told = server
    other = CONTENT[:-1] + b"?"
    told["body"] = other
    wrong = f"SHA-256 {sha256(other)}, not {sha256(CONTENT)}"
    with pytest.raises(OSError, match=f"{wrong}; it was not kept"):
        fetch_checked(address, VARIABLE, LIMIT)
    assert list(cache.iterdir()) == []
    (cache / "weights.pth").write_bytes(other)
    with pytest.raises(OSError, match=f"{wrong} as {VARIABLE} asks for; remove the file"):
        fetch_checked(address, VARIABLE, LIMIT)
    assert told["calls"] == 1


@pytest.mark.parametrize("given", ["abc", "0" * 63, "g" * 64, "0" * 65])
def test_what_is_no_digest_is_refused_before_anything_is_downloaded(
    cache: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it was fetched"))
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(ValueError, match=f"{VARIABLE} is to be a SHA-256, 64 .*{given}"):
        fetch_checked("https://example.org/w.pth", VARIABLE, LIMIT)
    assert not cache.exists()


def test_a_download_that_another_process_finished_first_does_no_harm(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: object, **__: object) -> Any:
        (cache / "w.pth").write_bytes(CONTENT)
        stream = io.BytesIO(CONTENT)
        stream.headers = {"Content-Length": None}  # type: ignore[attr-defined]
        return stream

    monkeypatch.setattr("urllib.request.urlopen", meanwhile)
    file = fetch_checked("https://example.org/w.pth", VARIABLE, LIMIT)
    assert file.read_bytes() == CONTENT
    assert [file.name for file in cache.iterdir()] == ["w.pth"]


def test_an_interrupted_download_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        headers = {"Content-Length": None}  # noqa: RUF012

        def read(self, *_: object) -> bytes:
            raise KeyboardInterrupt("control-C")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Interrupted())
    with pytest.raises(KeyboardInterrupt, match="control-C"):
        fetch_checked("https://example.org/w.pth", VARIABLE, LIMIT)
    assert list(cache.iterdir()) == []


# InceptionV1


def test_without_a_network_the_message_says_where_to_put_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(OSError, match=r"inception5h.pth could not be downloaded") as caught:
        load("inceptionv1")
    message = str(caught.value)
    assert "no route to host" in message
    assert "name it as MODEL=FILE" in message
    assert f"put it at {cache / 'inception5h.pth'}" in message
    assert list(cache.iterdir()) == []


def test_inceptionv1_from_a_file_and_from_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it was fetched"))
    with torch.random.fork_rng(devices=[]):
        weights = {k: v.half() for k, v in drawn(InceptionV1()).items()}
    cache.mkdir()
    content = write(cache / "inception5h.pth", weights).read_bytes()
    with pytest.raises(OSError, match=f"set {INCEPTION5H_SHA256}={sha256(content)}"):
        load("inceptionv1")
    monkeypatch.setenv(INCEPTION5H_SHA256, sha256(content))
    cached = load("inceptionv1")
    # A file that is named is the user's own, and needs no digest.
    monkeypatch.delenv(INCEPTION5H_SHA256)
    given = load("inceptionv1", write(tmp_path / "mine.safetensors", weights))
    assert cached.weights_sha256() == given.weights_sha256()
    assert cached.name == "inceptionv1"
    assert cached.layer("logits").shape == (1008, 1, 1)
    assert cached.layer("mixed3b").shape == (480, 28, 28)
    assert cached.dtype == torch.float32
    # The network's own range: a pixel in [0, 255] less 117.
    pixels = np.array([0, 117, 255], np.uint8).reshape(1, 1, 1, 3)
    values = cached.inputs(pixels).flatten().tolist()
    assert values == pytest.approx([-117, 0, 138], abs=1e-4)


def test_the_limit_lets_the_weights_through_and_little_more() -> None:
    with torch.random.fork_rng(devices=[]):
        size = sum(4 * x.numel() for x in InceptionV1().state_dict().values())
    assert 1.5 * size < registry.INCEPTION5H_LIMIT < 3 * size


# The cache


def test_where_downloads_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPPONENT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "opponent"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "opponent"
    monkeypatch.setenv("OPPONENT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_without_a_home_the_message_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("OPPONENT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match=r"no home .*; set OPPONENT_CACHE to a folder"):
        load("inceptionv1")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("OPPONENT_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot be kept in .*file .*; set OPPONENT_CACHE to a fold"):
        load("inceptionv1")


def test_a_full_disk_leaves_nothing(
    cache: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, told = server
    told["body"] = CONTENT

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(download, "_stream", full)
    with pytest.raises(OSError, match=re.escape(os.strerror(28))):
        fetch_checked(address, VARIABLE, LIMIT)
    assert list(cache.iterdir()) == []
