"""Rows of a `datasets.Dataset` as plain mappings, with images left encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import datasets


class ArrowRows:
    """A sequence of rows over a `datasets.Dataset`, whatever format the dataset was set to.

    Images, and everything else that `datasets` would decode, come as the mapping of `bytes` and `path` that is stored,
    at any depth. A broken image is then an error of its row, raised where images are opened, and reading a row costs no
    decoding. (Casting the columns would do the same, but copies every table in which the images are in lists.)
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset.with_format("arrow")
        self._features = datasets.Features({name: _undecoded(feature) for name, feature in dataset.features.items()})

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the row at a position from 0."""
        table = self._dataset[index]
        row: dict[str, Any] = self._features.decode_example(table.to_pylist()[0])
        return row

    def column(self, name: str) -> list[Any] | None:
        """Returns a column without touching the others, None where there is no such column."""
        if name not in self._dataset.column_names:
            return None
        values: list[Any] = self._dataset.select_columns([name])[:].column(name).to_pylist()
        return values


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _undecoded(entry) for name, entry in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return replace(feature, feature=_undecoded(feature.feature))
    # Json is stored as text, which nobody reads but the feature itself; media can wait.
    if hasattr(feature, "decode") and type(feature).__name__ != "Json":
        return replace(feature, decode=False)
    return feature
