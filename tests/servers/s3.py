"""An S3 server in this process: moto's, which keeps objects in memory."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pytest

__all__ = ["BUCKET", "Store", "running_store"]

BUCKET: Final = "pattern"
KEYS: Final = {"access_key_id": "test", "secret_access_key": "hush", "region": "us-east-1"}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Store:
    """moto's server, one request at a time: it loses track of objects that are read and replaced at once.

    Attributes:
        url: Where it listens.
        swallow: How many answers to puts are still to be lost, after the put took effect.
    """

    def __init__(self) -> None:
        moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto[server] is not installed")
        serving = pytest.importorskip("werkzeug.serving", reason="moto[server] is not installed")
        self.swallow = 0
        self._moto: Application = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._turn = threading.Lock()
        self._prefixes = itertools.count()
        self._server = serving.make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=moto.MotoRequestHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._turn:
            answer = list(self._moto(environ, start))
            if environ["REQUEST_METHOD"] == "PUT" and self.swallow:
                self.swallow -= 1
                start("503 Service Unavailable", [])
                return []
            return answer

    def section(self, **changes: Any) -> dict[str, Any]:
        """Return the configuration of a new prefix in the bucket."""
        uri = f"s3://{BUCKET}/{next(self._prefixes)}"
        return {"uri": uri, "endpoint": self.url, **KEYS, "allow_http": True, "lease_seconds": 1, **changes}

    def stop(self) -> None:
        """Stop the server; its objects are lost."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def running_store() -> Iterator[Store]:
    """Yield a server with a bucket, for a fixture."""
    boto3 = pytest.importorskip("boto3", reason="moto[server] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Store()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "hush", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=store.url, **keys)
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield store
    store.stop()
