"""The form in which the TFX components of this project are declared."""

from __future__ import annotations

import inspect
from typing import Any

from tfx import types
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.components.base import base_beam_executor, base_component, base_executor, executor_spec
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.system_executions import SystemExecution
from tfx.utils import json_utils

__all__ = ["Component", "InputArtifact", "OutputArtifact", "Parameter", "TableReader"]


class Component(base_component.BaseComponent):
    """A component whose inputs, outputs and parameters are the annotations of its class.

    An input with the default None is optional.  A parameter of type `bool` is stored as 0 or 1, one of type
    `dict[str, Any]` as JSON text.  Where the executor is a Beam executor, it gets the pipeline's Beam flags.
    Declarations of a base class come first; a base class has no executor of its own.

    Args:
        **given: Channels and parameters by the declared names.

    Raises:
        TypeError: an argument is positional, unknown, missing or of another type than declared.

    Example:
        class RetrievalIndex(Component, executor=Executor):
            embeddings: InputArtifact[ItemEmbeddings]
            neighbours: Parameter[int] = 50
            model: OutputArtifact[standard_artifacts.Model]

        RetrievalIndex(embeddings=exporter.outputs["embeddings"], code_fingerprint="…").with_id("Index")

    Attributes:
        code_fingerprint: Of the code that the executor runs; another one makes the component run again.
    """

    code_fingerprint: Parameter[str]

    def __init_subclass__(
        cls,
        executor: type[base_executor.BaseExecutor] | None = None,
        execution_type: type[SystemExecution] | None = None,
    ) -> None:
        """Makes the specs of `cls`.

        Args:
            executor: Runs the component; None for a base class of components.
            execution_type: What kind of work ML Metadata records, for example `Train`.
        """
        super().__init_subclass__()
        if executor is None:
            return
        declared = _declared(cls)
        cls.__signature__ = inspect.Signature(
            [one for one in declared if not isinstance(one.annotation, OutputArtifact)]
        )
        cls.SPEC_CLASS = _spec_class(cls, declared, execution_type)
        is_beam = issubclass(executor, base_beam_executor.BaseBeamExecutor)
        cls.EXECUTOR_SPEC = (executor_spec.BeamExecutorSpec if is_beam else executor_spec.ExecutorClassSpec)(executor)

    def __init__(self, *args: Any, **given: Any) -> None:
        kind, signature = type(self), inspect.signature(type(self))
        try:
            bound = signature.bind(*args, **given)
        except TypeError as error:
            names = ", ".join(signature.parameters)
            raise TypeError(f"{kind.__name__}: {error}. It takes, by keyword: {names}.") from None
        bound.apply_defaults()
        values = {
            name: _stored(signature.parameters[name].annotation, value) for name, value in bound.arguments.items()
        }
        outputs = {name: types.Channel(type=one.type) for name, one in kind.SPEC_CLASS.OUTPUTS.items()}
        super().__init__(spec=kind.SPEC_CLASS(**values, **outputs))


class TableReader(Component):
    """A component that reads tables.

    Attributes:
        data: Folder that meets the contract.
        schema: JSON of `Schema`.
        spans: Settings of `Spans`: which days are read.
        rejected_folder: Where rows go that break the contract, where they stop the run.
        max_rejected_fraction: A larger share of rejected rows of one table stops the run.
        input_fingerprint: Of the tables that it reads; another one makes the component run again.
    """

    data: Parameter[str]
    schema: Parameter[str]
    spans: Parameter[dict[str, Any]]
    rejected_folder: Parameter[str]
    max_rejected_fraction: Parameter[float]
    input_fingerprint: Parameter[str]


def _declared(cls: type[Component]) -> list[inspect.Parameter]:
    """What a class and its bases declare.

    Raises:
        TypeError: an annotation is none of the three.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Component):
            continue
        for name, one in inspect.get_annotations(base, eval_str=True).items():
            if not isinstance(one, InputArtifact | OutputArtifact | Parameter):
                raise TypeError(
                    f"{base.__name__}.{name} is annotated with {one}; annotations of a component are InputArtifact[T], "
                    "OutputArtifact[T] or Parameter[T]"
                )
            default = vars(base).get(name, inspect.Parameter.empty)
            found[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=one)
    return list(found.values())


def _spec_class(
    cls: type[Component], declared: list[inspect.Parameter], execution_type: type[SystemExecution] | None
) -> type[ComponentSpec]:
    """TFX's form of a declaration."""
    spec: dict[str, Any] = {"PARAMETERS": {}, "INPUTS": {}, "OUTPUTS": {}, "TYPE_ANNOTATION": execution_type}
    for one in declared:
        kind = one.annotation.type
        if isinstance(one.annotation, Parameter):
            spec["PARAMETERS"][one.name] = ExecutionParameter(type=_stored_type(kind))
        elif isinstance(one.annotation, InputArtifact):
            spec["INPUTS"][one.name] = ChannelParameter(type=kind, optional=one.default is None)
        else:
            spec["OUTPUTS"][one.name] = ChannelParameter(type=kind)
    names = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.SPEC_CLASS"}
    return type(f"{cls.__name__}Spec", (ComponentSpec,), spec | names)


def _is_json(kind: Any) -> bool:
    return not isinstance(kind, type)  # dict[str, Any] and list[Any] are generic aliases


def _stored_type(kind: Any) -> Any:
    """Type of a parameter in ML Metadata and in Kubeflow."""
    if kind is bool:
        return int
    return str if _is_json(kind) else kind


def _stored(declared: Any, value: Any) -> Any:
    """A parameter's value as it is stored; all else as it is."""
    if not isinstance(declared, Parameter):
        return value
    if declared.type is bool and isinstance(value, bool):
        return int(value)
    return json_utils.dumps(value) if _is_json(declared.type) and isinstance(value, dict | list) else value
