"""`CatalogueGen`: the `items` table → Examples with splits `train` and `valid`."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.catalogue_gen.executor import Executor
from components.component import OutputArtifact, TableReader


class CatalogueGen(TableReader, executor=Executor):
    """Reads `items` (Parquet, CSV, TSV), decodes every picture once, and writes one tf.Example an item.

    Features: `item_id`, `title`, `text`, `category`, `image` (bytes; empty where there is none or it cannot be read),
    `created_at` (seconds, 0 where unknown), and the attributes that `schema` (JSON of `Schema`) names, as text.
    One item in ten, by a hash of its id, is in split `valid`.
    Rows that break the contract are in `rejected/items.jsonl` of the artifact.
    """

    items: OutputArtifact[standard_artifacts.Examples]
