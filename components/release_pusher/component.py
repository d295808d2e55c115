"""`ReleasePusher`: publishes a release that was accepted."""

from __future__ import annotations

from components.artifacts import Release
from components.component import Component, InputArtifact, Parameter
from components.release_pusher.executor import Executor


class ReleasePusher(Component, executor=Executor):
    """Makes an accepted release the current one: all its models, or none.  A release that was not accepted changes
    nothing.  It runs in every run, because what is served is not an artifact that a cache could know.

    Args:
        release: From ReleaseGen.
        root: Where `models` and `releases` lie, see `serving.releases`.
        run_id: Another one in each run.
    """

    release: InputArtifact[Release]
    root: Parameter[str]
    run_id: Parameter[str]
