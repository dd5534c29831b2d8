"""ONNX Runtime and OpenVINO instead of PyTorch: they run the transformer, and sentence-transformers does the rest.

sentence-transformers' own backends need optimum, whose releases conflict with the transformers that sentence-transformers
6 needs. Both engines load the same ONNX file. It is always exported here, from the weights in the signature: a file from
the hub may have other weights, or be quantized. Importing this module imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pattern_core.errors import ConfigError, EmbeddingError
from pattern_core.toolkit import user_cache

from .options import TorchOptions
from .quiet import quiet_export
from .weights import PROVIDER

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["replace_torch"]

Run: TypeAlias = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]

OUTPUT: Final = "last_hidden_state"
TOLERANCE: Final = 1e-3
"""How much a number of the output may differ from PyTorch's, as a share of the largest number."""

_SAMPLE: Final = ["one", "one two three four five"]
_OTHER_SAMPLE: Final = ["one two three", "one two three four five six seven", "one"]
"""Texts of other lengths and another number, to check that a file is not fixed to the sizes of its export."""

_logger: Final = logging.getLogger(__name__)


class _Engine(torch.nn.Module):
    """The module that replaces the transformer.

    Args:
        config: The transformer's configuration, for sentence-transformers.
        names: The names of the inputs.
        run: Runs the engine.
    """

    def __init__(self, config: Any, names: list[str], run: Run) -> None:
        super().__init__()
        self.config = config
        self._names = names
        self._run = run

    def forward(self, **features: Any) -> dict[str, torch.Tensor]:
        output = self._run({name: features[name].numpy() for name in self._names})
        return {OUTPUT: torch.from_numpy(output)}


class _Traced(torch.nn.Module):
    """A transformer with positional inputs and one output, like an ONNX file."""

    def __init__(self, transformer: Any, names: list[str]) -> None:
        super().__init__()
        self._transformer = transformer
        self._names = names

    def forward(self, *features: torch.Tensor) -> Any:
        return self._transformer(**dict(zip(self._names, features, strict=True)))[OUTPUT]


def replace_torch(model: SentenceTransformer, options: TorchOptions, digest: str) -> None:
    """Let another engine run a model's transformer, with an ONNX file that is exported on first use.

    Args:
        model: The model, on the CPU. It is changed.
        options: The options.
        digest: The digest of the model's weights.

    Raises:
        ConfigError: The engine is not installed.
        EmbeddingError: The engine cannot run the model, or the file cannot be written.
    """
    first: Any = model[0]
    transformer: Any = getattr(first, "auto_model", None)
    start = _ENGINES[options.backend]
    _require(options.backend)
    try:
        features = _features(model, transformer, _SAMPLE)
        file = _file(transformer, options, digest)
        run = _try_start(start, file, options.threads) if file.exists() else None
        if run is None or not _agrees(run, model, transformer):
            _export(transformer, features, file)
            run = start(file, options.threads)
            if not _agrees(run, model, transformer):
                raise ValueError("its vectors differ from those of PyTorch")  # noqa: TRY301 - as other failures
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        message = (
            f'the embedding model {options.model!r} cannot run with backend = "{options.backend}" ({reason}). '
            f'Set backend = "torch" under [embeddings]; if the disk is the reason, set cache_dir to another folder.'
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
    # Not its convert_model, which sends telemetry; loading an ONNX file does not.
    engine: Any = importlib.import_module("openvino")
    # By default it computes in bfloat16 if the CPU can: vectors then differ by 1e-3, also between machines.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = engine.Core().compile_model(str(file), "CPU", settings)
    return lambda features: compiled(dict(features))[OUTPUT]


_ENGINES: Final[Mapping[str, Callable[[Path, int | None], Run]]] = {"onnx": _onnxruntime, "openvino": _openvino}


def _try_start(start: Callable[[Path, int | None], Run], file: Path, threads: int | None) -> Run | None:
    """Start an engine with an existing file; return None if the file is broken."""
    try:
        return start(file, threads)
    except Exception as error:  # noqa: BLE001 - the engines have no error class for it
        _logger.warning("%s cannot be read (%s), so it is exported again", file, type(error).__name__)
        return None


def _file(transformer: Any, options: TorchOptions, digest: str) -> Path:
    """Return the path of the ONNX file: one for each digest, version of PyTorch and configuration."""
    exporter = f"{torch.__version__} {transformer.config.to_json_string()}"
    name = hashlib.sha256(f"{digest} {exporter}".encode()).hexdigest()[:32]
    cache = user_cache() / "onnx" if options.cache_dir is None else options.cache_dir / "pattern-onnx"
    return cache / name / "model.onnx"


def _features(model: SentenceTransformer, transformer: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """Return the inputs of a transformer for texts: int64, each ``[texts, tokens]``."""
    accepted = inspect.signature(transformer.forward).parameters
    tokens = model.tokenizer(texts, padding=True, return_tensors="pt")
    return {name: tensor for name, tensor in tokens.items() if name in accepted}


def _agrees(run: Run, model: SentenceTransformer, transformer: Any) -> bool:
    features = _features(model, transformer, _OTHER_SAMPLE)
    with torch.inference_mode():
        expected = transformer(**features)[OUTPUT].numpy()
    output = run({name: tensor.numpy() for name, tensor in features.items()})
    tokens = features["attention_mask"].numpy().astype(bool)  # without padding, whose output is arbitrary
    return bool(output.shape == expected.shape and _distance(output[tokens], expected[tokens]) < TOLERANCE)


def _distance(output: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(output - expected).max() / np.abs(expected).max())


def _export(transformer: Any, features: Mapping[str, torch.Tensor], file: Path) -> None:
    """Export an ONNX file, atomically."""
    _logger.info("exporting %s; this happens once", file)
    cache = file.parent.parent
    cache.mkdir(parents=True, exist_ok=True)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as folder, quiet_export():
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
            if not file.exists():  # otherwise another process was faster
                raise
