"""`ReleaseGen`: encoder, snapshot, index, ranker and verdict → one release."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.artifacts import ItemEmbeddings, Release
from components.baseline_check.component import BaselineComparison
from components.component import Component, InputArtifact, OutputArtifact
from components.release_gen.executor import Executor


class ReleaseGen(Component, executor=Executor):
    """Binds what belongs together and checks that it does: snapshot and ranker are of this encoder.

    Args:
        encoder, embeddings, index, ranker: The parts.
        blessing: Whether the ranker may be released.
        comparison: From BaselineCheck, for the verdict.
        items_statistics, examples_statistics: Of the data; the next run's data are compared with them.
    """

    encoder: InputArtifact[standard_artifacts.Model]
    embeddings: InputArtifact[ItemEmbeddings]
    index: InputArtifact[standard_artifacts.Model]
    ranker: InputArtifact[standard_artifacts.Model]
    blessing: InputArtifact[standard_artifacts.ModelBlessing]
    comparison: InputArtifact[BaselineComparison]
    items_statistics: InputArtifact[standard_artifacts.ExampleStatistics]
    examples_statistics: InputArtifact[standard_artifacts.ExampleStatistics]
    release: OutputArtifact[Release]
