"""Writes the documents that follow from the contracts: ``python -m fairlane.schemas.generate docs/contracts``.

The only module of this package that touches files, and only when it is run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from fairlane import __version__
from fairlane.schemas.asyncapi import asyncapi
from fairlane.schemas.examples import examples
from fairlane.schemas.json_schema import CONTRACTS, json_schema
from fairlane.schemas.markdown import errors_page, topics_page


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """Repeat what is shared: anchors help no reader."""
        return True


def documents() -> dict[str, str]:
    """The text of every generated document by its file name."""
    shown = examples()
    pages = {
        f"{contract.name}.schema.json": json.dumps(json_schema(contract, shown), indent=2, ensure_ascii=False) + "\n"
        for contract in CONTRACTS
    }
    document = asyncapi(shown, __version__)
    pages["asyncapi.yaml"] = yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)
    pages["errors.md"] = errors_page()
    pages["topics.md"] = topics_page()
    return pages


def main(arguments: list[str]) -> int:
    """Write all documents into the folder named by the one argument; 2 if there is not one."""
    if len(arguments) != 1:
        print("usage: python -m fairlane.schemas.generate FOLDER", file=sys.stderr)  # noqa: T201  # a script speaks
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    pages = documents()
    for stale in folder.iterdir():
        if stale.name.endswith(".schema.json") and stale.name not in pages:
            stale.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
