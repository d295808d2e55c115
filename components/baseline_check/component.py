"""`BaselineCheck`: the ranker against simple baselines on the same rows; it is released only above them."""

from __future__ import annotations

from tfx.types import artifact, standard_artifacts

from components.artifacts import ItemEmbeddings
from components.baseline_check.executor import Executor
from components.component import Component, InputArtifact, OutputArtifact, Parameter


class BaselineComparison(artifact.Artifact):
    """A folder with `comparison.json`."""

    TYPE_NAME = "mim.BaselineComparison"


class BaselineCheck(Component, executor=Executor):
    """Fits click rates and gradient boosting on the ranking examples and compares the ranker with them on the test
    rows.  The ranker is blessed if the Evaluator blessed it and, with `must_beat`, if its AUC is above that of the
    best baseline by a 95 % interval over users.

    Args:
        examples: From HistoryGen.
        items: From CatalogueGen.
        embeddings: The snapshot.
        model: The ranker.
        evaluated: The Evaluator's blessing.
        features: JSON: `attributes` and `context`, kinds by name, and `entities` of the statistics.
        must_beat: Whether a ranker that is not above the baselines is held back.
    """

    examples: InputArtifact[standard_artifacts.Examples]
    items: InputArtifact[standard_artifacts.Examples]
    embeddings: InputArtifact[ItemEmbeddings]
    model: InputArtifact[standard_artifacts.Model]
    evaluated: InputArtifact[standard_artifacts.ModelBlessing]
    features: Parameter[str]
    must_beat: Parameter[bool]
    comparison: OutputArtifact[BaselineComparison]
    blessing: OutputArtifact[standard_artifacts.ModelBlessing]
