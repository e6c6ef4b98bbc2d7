"""nginx before a study's server, as docs/experiment.md says: an unprivileged process of its own."""

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests.support.server import free_port

PAGE = Path(__file__).parents[2] / "docs" / "experiment.md"
NAME = "study.example.org"
# Around the block of the page: what a distribution's nginx.conf has, in a folder of the test.
AROUND = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{block}
}}
"""


def documented(language: str) -> str:
    """The block of the page in that language under 'For participants elsewhere'."""
    text = PAGE.read_text(encoding="utf-8").split("### For participants elsewhere")[1]
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    assert found is not None
    return found[1]


def replaced(text: str, changes: dict[str, str]) -> str:
    """A text in which each of these occurs, and is replaced."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Nginx:
    """The documented server, with other ports and a certificate of its own.

    Args:
        folder: for its files.
        upstream: the port of the study's server.
    """

    def __init__(self, folder: Path, upstream: int) -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/bin")
        openssl = shutil.which("openssl")
        if program is None or openssl is None:
            pytest.skip("nginx or openssl is not installed")
        self.folder, self.port = folder, free_port()
        self.url = f"https://{NAME}:{self.port}"
        folder.mkdir()
        pem, key = folder / "cert.pem", folder / "key.pem"
        subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
        subprocess.run(
            [*made, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True
        )
        block = replaced(
            documented("nginx"),
            {
                "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(pem),
                f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(key),
                "http://127.0.0.1:8000;": f"http://127.0.0.1:{upstream};",
            },
        )
        conf = folder / "nginx.conf"
        # As root its workers would be somebody else, who may not write into the test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        text = AROUND.format(folder=folder, block=block, user=user)
        conf.write_text(text, encoding="utf-8")
        self._command = [program, "-p", str(folder), "-c", str(conf), "-e", str(folder / "log")]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Nginx":
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE)
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return self
            except OSError:
                assert self._process.poll() is None, self._process.stderr.read()  # type: ignore[union-attr]
                assert time.monotonic() < end, "nginx does not start"
                time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)
        if self._process.stderr is not None:
            self._process.stderr.close()
