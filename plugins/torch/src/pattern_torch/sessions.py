"""ONNX Runtime and OpenVINO in the place of PyTorch: they run the transformer, sentence-transformers does the rest.

sentence-transformers' own backends need optimum, whose releases refuse the transformers that sentence-transformers 6
needs, and each other's. Both engines read the same ONNX file; it is always made here, of the weights that the signature
names, never taken from the hub, where it may be of other weights, or quantized. Importing this module imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pattern_core.errors import ConfigError, EmbeddingError
from pattern_core.toolkit import user_cache

from .plugin import TorchOptions
from .weights import PROVIDER

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["replace_torch"]

Run: TypeAlias = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]

OUTPUT: Final = "last_hidden_state"
TOLERANCE: Final = 1e-3
"""How far a number of a transformer's output may be from PyTorch's, as a share of the largest."""

_SAMPLE: Final = ["one", "one two three four five"]
_OTHER_SAMPLE: Final = ["one two three", "one two three four five six seven", "one"]
"""Texts of other lengths, and more of them, show whether a file holds for more than what it was made with."""

_logger: Final = logging.getLogger(__name__)


class _Engine(torch.nn.Module):
    """What stands where the transformer stood.

    Args:
        config: The transformer's configuration, which sentence-transformers asks.
        names: What the engine reads of a text's features.
        run: The engine.
    """

    def __init__(self, config: Any, names: list[str], run: Run) -> None:
        super().__init__()
        self.config = config
        self._names = names
        self._run = run

    def forward(self, **features: Any) -> dict[str, torch.Tensor]:
        found = self._run({name: features[name].numpy() for name in self._names})
        return {OUTPUT: torch.from_numpy(found)}


class _Traced(torch.nn.Module):
    """A transformer that takes its features by position, and returns one array, as an ONNX file does."""

    def __init__(self, transformer: Any, names: list[str]) -> None:
        super().__init__()
        self._transformer = transformer
        self._names = names

    def forward(self, *features: torch.Tensor) -> Any:
        return self._transformer(**dict(zip(self._names, features, strict=True)))[OUTPUT]


def replace_torch(model: SentenceTransformer, options: TorchOptions, digest: str) -> None:
    """Let another engine run a model's transformer, by a file that is made when it is first needed.

    Args:
        model: The model, on the CPU. It is changed.
        options: The options: which engine, and where files are kept.
        digest: What tells the model's weights from others.

    Raises:
        ConfigError: The engine is not installed.
        EmbeddingError: The model cannot be run without PyTorch, or the file cannot be written.
    """
    first: Any = model[0]
    transformer: Any = getattr(first, "auto_model", None)
    start = _ENGINES[options.backend]
    _require(options.backend)
    try:
        features = _features(model, transformer, _SAMPLE)
        file = _file(transformer, options, digest)
        run = _started(start, file, options.threads) if file.exists() else None
        if run is None or not _agrees(run, model, transformer):
            _export(transformer, features, file)
            run = start(file, options.threads)
            if not _agrees(run, model, transformer):
                raise ValueError("its vectors would not be those of PyTorch")  # noqa: TRY301 - as other failures
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        message = (
            f'the embedding model {options.model!r} cannot be run by backend = "{options.backend}" ({reason}). '
            f'Set backend = "torch" under [embeddings]; if the disk is the reason, cache_dir names another folder.'
        )
        raise EmbeddingError(message, provider=PROVIDER, model=options.model) from error
    first.model = _Engine(transformer.config, list(features), run)


def _require(backend: str) -> None:
    for name in {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}[backend]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            message = (
                f'backend = "{backend}" needs {name}, which cannot be imported ({error}): '
                f'pip install "pattern-core-torch[{backend}]"'
            )
            raise ConfigError(message, key="embeddings.backend") from error


def _onnxruntime(file: Path, threads: int | None) -> Run:
    engine: Any = importlib.import_module("onnxruntime")
    settings = engine.SessionOptions()
    if threads is not None:
        settings.intra_op_num_threads = threads
    session = engine.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    return lambda features: session.run([OUTPUT], dict(features))[0]


def _openvino(file: Path, threads: int | None) -> Run:
    # Never its convert_model: that tells its makers. Reading an ONNX file does not.
    engine: Any = importlib.import_module("openvino")
    # Left alone, it computes in bfloat16 on processors that can: vectors differ by 1e-3 then, between machines, too.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = engine.Core().compile_model(str(file), "CPU", settings)
    return lambda features: compiled(dict(features))[OUTPUT]


_ENGINES: Final[Mapping[str, Callable[[Path, int | None], Run]]] = {"onnx": _onnxruntime, "openvino": _openvino}


def _started(start: Callable[[Path, int | None], Run], file: Path, threads: int | None) -> Run | None:
    """Start an engine with a file from an earlier time; None where the file is broken, and to be made again."""
    try:
        return start(file, threads)
    except Exception as error:  # noqa: BLE001 - the engines have no class of their own for it
        _logger.warning("%s cannot be read (%s): it is made again", file, type(error).__name__)
        return None


def _file(transformer: Any, options: TorchOptions, digest: str) -> Path:
    """Return where the ONNX file of these weights is, or is to be: another maker or configuration, another file."""
    maker = f"{torch.__version__} {transformer.config.to_json_string()}"
    name = hashlib.sha256(f"{digest} {maker}".encode()).hexdigest()[:32]
    home = user_cache() / "onnx" if options.cache_dir is None else options.cache_dir / "pattern-onnx"
    return home / name / "model.onnx"


def _features(model: SentenceTransformer, transformer: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """Return what a transformer reads of texts: int64, each ``[texts, tokens]``."""
    accepted = inspect.signature(transformer.forward).parameters
    tokens = model.tokenizer(texts, padding=True, return_tensors="pt")
    return {name: tensor for name, tensor in tokens.items() if name in accepted}


def _agrees(run: Run, model: SentenceTransformer, transformer: Any) -> bool:
    features = _features(model, transformer, _OTHER_SAMPLE)
    with torch.inference_mode():
        expected = transformer(**features)[OUTPUT].numpy()
    found = run({name: tensor.numpy() for name, tensor in features.items()})
    read = features["attention_mask"].numpy().astype(bool)  # what stands at padding is nobody's business
    return bool(found.shape == expected.shape and _distance(found[read], expected[read]) < TOLERANCE)


def _distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _export(transformer: Any, features: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write an ONNX file, which is there whole or not at all."""
    _logger.info("making %s; this is done once", file)
    home = file.parent.parent
    home.mkdir(parents=True, exist_ok=True)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as folder, _quiet():
        new = Path(folder) / "new"
        new.mkdir()
        torch.onnx.export(
            _Traced(transformer, list(features)).eval(),
            tuple(features.values()),
            new / file.name,
            dynamo=True,
            input_names=list(features),
            output_names=[OUTPUT],
            dynamic_shapes=(tuple(any_size for _ in features),),
            external_data=True,
            verbose=False,
        )
        shutil.rmtree(file.parent, ignore_errors=True)  # a broken one
        try:
            new.rename(file.parent)
        except OSError:
            if not file.exists():  # otherwise another process was quicker
                raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's exporter from talking while it works."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
