"""`ReleasePusher`: publishes a release that was accepted."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import Release
from components.release_pusher.executor import Executor


class ReleasePusherSpec(ComponentSpec):
    """Parameters and inputs of `ReleasePusher`."""

    PARAMETERS = {"root": ExecutionParameter(type=str), "run_id": ExecutionParameter(type=str)}
    INPUTS = {"release": ChannelParameter(type=Release)}
    OUTPUTS: dict[str, ChannelParameter] = {}


class ReleasePusher(base_component.BaseComponent):
    """Makes an accepted release the current one: all its models, or none.  A release that was not accepted changes
    nothing.  It runs in every run, because what is served is not an artifact that a cache could know.

    Args:
        release: From ReleaseGen.
        root: Where `models` and `releases` lie, see `serving.releases`.
        run_id: Another one in each run.
    """

    SPEC_CLASS = ReleasePusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, release: types.BaseChannel, root: str, run_id: str) -> None:
        super().__init__(spec=ReleasePusherSpec(release=release, root=root, run_id=run_id))
