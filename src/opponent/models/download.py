"""Weights from the network: whole, of a size that is allowed, and as the digest asks."""

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

# Bytes at a time.
_PIECE = 2**20


def cache_folder() -> Path:
    """Where downloaded weights are kept: $OPPONENT_CACHE, or a folder of the user's cache.

    Raises:
        OSError: neither is set and the user has no home; says what to set.
    """
    if own := os.environ.get("OPPONENT_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "opponent"
    try:
        return Path.home() / ".cache" / "opponent"
    except RuntimeError as error:
        raise OSError(
            "there is no home to keep downloaded weights in; set OPPONENT_CACHE to a folder"
        ) from error


def fetch_checked(address: str, variable: str, limit: int) -> Path:
    """A file of the cache, downloaded unless it is there, with the digest that the user gave.

    The digest is compared each time, so that nothing is read that the user has not confirmed.

    Args:
        address: of the file; the last part is its name in the cache.
        variable: the environment variable that holds its SHA-256, as 64 hexadecimal digits.
        limit: the most bytes that it may have.
    Raises:
        OSError: no digest was given, or the file has another, is too large, could not be
            downloaded, or cannot be kept; says what to do.
        ValueError: what the variable holds is no SHA-256.
    """
    wanted = os.environ.get(variable, "").strip().lower()
    if wanted and not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise ValueError(f"{variable} is to be a SHA-256, 64 hexadecimal digits, not {wanted!r}")
    file = cache_folder() / address.rsplit("/", 1)[1]
    if not file.is_file():
        _download(address, file, wanted, limit)
    found = _digest(file)
    if not wanted:
        raise OSError(
            f"{file.name} from {address} is at {file}, but nothing says that it is the right one: "
            f"its SHA-256 is {found}. Compare that with one that you trust and set "
            f"{variable}={found}, or name a file of your own as MODEL=FILE"
        )
    if found != wanted:
        raise OSError(
            f"{file} has the SHA-256 {found}, not {wanted} as {variable} asks for; remove the file "
            "to download it again"
        )
    return file


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _download(address: str, file: Path, wanted: str, limit: int) -> None:
    """Download a file, whole or not at all.

    Args:
        address: of the file.
        file: where it goes.
        wanted: its digest, or nothing; with another digest it is not kept.
        limit: the most bytes that it may have.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    except OSError as error:
        raise OSError(
            f"{file.name} cannot be kept in {file.parent} ({error}); set OPPONENT_CACHE to a "
            "folder that can be written to"
        ) from error
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as opened:
            _copy(address, file, opened, limit)
        if wanted and (found := _digest(temporary)) != wanted:
            raise OSError(
                f"{file.name} came from {address} with the SHA-256 {found}, not {wanted}; it was "
                "not kept"
            )
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(address: str, file: Path, to: BinaryIO, limit: int) -> None:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            _stream(answer, to, limit)
    except (
        urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError
    ) as error:  # fmt: skip
        raise OSError(
            f"{file.name} could not be downloaded from {address} ({error}). Without a network, get "
            f"it elsewhere and name it as MODEL=FILE, or put it at {file}"
        ) from error


def _stream(answer: Any, to: BinaryIO, limit: int) -> None:
    """Write what comes, until it is more than is allowed."""
    header, length = answer.headers["Content-Length"], 0
    announced = int(header) if header and header.isdecimal() else None
    if announced is not None and announced > limit:
        raise ConnectionError(f"{announced} bytes are announced, at most {limit} are expected")
    while piece := answer.read(_PIECE):
        length += len(piece)
        if length > limit:
            raise ConnectionError(f"more than {limit} bytes came, which is all that is expected")
        to.write(piece)
    if announced is not None and length != announced:
        raise ConnectionError(f"{length} of {announced} bytes came")
