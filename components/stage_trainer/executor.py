"""Gives the run function the folders of the catalogue, the snapshot and the statistics."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.components.trainer import executor, fn_args_utils
from tfx.types import artifact_utils

from components.storage import on_local_disk


class Executor(executor.GenericExecutor):
    """TFX's generic Trainer executor with three more folders in `fn_args.custom_config`."""

    Do = on_local_disk(executor.GenericExecutor.Do)

    def _GetFnArgs(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> fn_args_utils.FnArgs:
        fn_args = super()._GetFnArgs(input_dict, output_dict, exec_properties)
        for name in ("catalogue", "embeddings", "statistics_table"):
            if input_dict.get(name):
                fn_args.custom_config[name] = artifact_utils.get_single_uri(input_dict[name])
        return fn_args
