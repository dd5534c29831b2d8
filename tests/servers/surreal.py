"""A SurrealDB server for tests, which can be killed and restarted; or an existing one.

Which one, in this order: what ``PATTERN_TEST_SURREAL_URL`` names (with ``_USER`` and ``_PASS``, as root); the program
``surreal`` on the PATH; the engine from npm behind our own front, in ``tests/servers/node``, which ``npm ci`` there
installs. Without any of these, the tests skip and say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

__all__ = ["Server", "lacking", "needs_server", "running"]

FRONT = Path(__file__).with_name("node")
PATIENCE_S = 60
URL = "PATTERN_TEST_SURREAL_URL"


def lacking() -> str | None:
    """Return what is missing to run these tests; None if nothing is."""
    if os.environ.get(URL) or shutil.which("surreal"):
        return None
    if shutil.which("node") is None:
        return f"needs a SurrealDB server: {URL}, the program surreal, or Node and `npm ci` in tests/servers/node"
    if not (FRONT / "node_modules" / "ws").is_dir():
        return "needs a SurrealDB server: run `npm ci` in tests/servers/node"
    return None


needs_server = pytest.mark.skipif(lacking() is not None, reason=lacking() or "")


@attrs.define
class Server:
    """A server on a local port with its own folder; or an existing server, which is only used.

    Attributes:
        folder: Where it keeps its files.
        port: Where it listens; 0 until it has started for the first time.
        username: The name of its root user.
        password: That user's password.
        certificate: The files of a certificate and its key, for TLS.
        elsewhere: The URL of a server that is there already.
    """

    folder: Path
    port: int = 0
    username: str = "root"
    password: str = "root"
    certificate: tuple[Path, Path] | None = None
    elsewhere: str | None = None
    _process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """The URL for WebSocket clients."""
        return self.elsewhere or f"ws{'s' if self.certificate else ''}://127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        """The URL for HTTP clients."""
        return self.url.replace("ws", "http", 1)

    @property
    def is_real(self) -> bool:
        """Whether it is SurrealDB's own program, not the engine behind our test server."""
        return self.elsewhere is not None or shutil.which("surreal") is not None

    def section(self, **more: Any) -> dict[str, Any]:
        """Return the configuration of a new, empty database on it, without the plugin's name."""
        return {
            "url": self.url,
            "username": self.username,
            "password": self.password,
            "namespace": f"t{secrets.token_hex(8)}",
            "database": "main",
            **more,
        }

    def start(self) -> None:
        """Start the server with the same port and folder as before, and wait until it answers."""
        if self.elsewhere is not None:
            return
        assert self._process is None, "it runs"
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if self.is_real:
            self._wait_until_it_answers()
            return
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the server has not started; see {log.name}"
        self.port = json.loads(line)["port"]

    def kill(self) -> None:
        """Kill the server with SIGKILL, without time to clean up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server, and wait for its end; do nothing if it is not running."""
        if self._process is not None:
            self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill the server, and start it again."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Suspend the server with open connections, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.elsewhere is not None:
            pytest.skip(f"needs a server that may be killed, and {URL} names another one")
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.wait(PATIENCE_S)
        process.stdin.close()
        process.stdout.close()

    def _command(self) -> list[str]:
        login = ["--user", self.username, "--pass", self.password]
        if program := shutil.which("surreal"):
            self.port = self.port or _free_port()
            bind = ["--no-banner", "--bind", f"127.0.0.1:{self.port}"]
            return [program, "start", *bind, *login, *self._tls("--web-crt", "--web-key"), f"rocksdb:{self.folder}"]
        place = ["--folder", str(self.folder), "--port", str(self.port)]
        return [
            shutil.which("node") or "node",
            str(FRONT / "server.mjs"),
            *place,
            *login,
            *self._tls("--cert", "--key"),
        ]

    def _tls(self, *flags: str) -> list[str]:
        return [word for pair in zip(flags, map(str, self.certificate or ()), strict=False) for word in pair]

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)  # it has no other way to say that it is ready


def _free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Yield a running server; skip the test if there cannot be one.

    Args:
        folder: Where it keeps its files.
        certificate: The files of a certificate and its key, for TLS.
    """
    if reason := lacking():
        pytest.skip(reason)
    server = Server(folder=folder, certificate=certificate)
    if elsewhere := os.environ.get(URL):
        server.elsewhere = elsewhere.rstrip("/").removesuffix("/rpc")
        server.port = urlsplit(elsewhere).port or 8000
        server.username = os.environ.get("PATTERN_TEST_SURREAL_USER", "root")
        server.password = os.environ.get("PATTERN_TEST_SURREAL_PASS", "root")
    server.start()
    try:
        yield server
    finally:
        server.stop()
