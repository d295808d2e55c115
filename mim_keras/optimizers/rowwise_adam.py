"""Adam that updates the rows of embedding tables which a batch uses, and no others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

from mim_keras.ops.row_gradients import (
    gather_rows,
    is_row_gradient,
    split_rows,
    sum_rows,
    sum_rows_in_place,
    with_values,
)

TableUpdate = Literal["rowwise_adagrad", "lazy_adam"]


@keras.saving.register_keras_serializable("mim")
class RowwiseAdam(keras.optimizers.Adam):
    """Adam, in which the cost of a step does not grow with the rows of embedding tables.

    A table is updated in the rows whose gradient is not zero.  Gradients of a row that a batch holds several times are
    summed first; clipping sees these sums.  All other variables are updated by Adam.

    On TensorFlow the gradient of a lookup holds the rows of the batch alone, and no other row is read or written.  On
    other backends it is dense: the update is the same, its cost is not.  `gradient_accumulation_steps`, `use_ema`, and
    `weight_decay` of a table, read whole tables.

    Args:
        learning_rate, beta_1, beta_2, epsilon: Of Adam.
        tables: Regular expressions; a variable [rows, dim] is a table where one is found in its path.
        table_update: `rowwise_adagrad` keeps one number for each row, the sum of the mean squares of its gradients, and
            divides by its root.  `lazy_adam` keeps Adam's moments of each row, and changes them in the steps alone that
            use it; it equals Adam in the first step of a row, and where each batch uses each row.
        table_learning_rate: Factor of `learning_rate` for the tables.
        table_l2: L2 regularisation of the rows that a batch uses: 2 · table_l2 · row is added to the gradient of a row
            after clipping.
        options: Of `keras.optimizers.Adam`; without `amsgrad`.

    Raises:
        ValueError: an argument is not among these values, or `tables` matches a variable that has no rows.

    Example:
        >>> import keras, numpy as np
        >>> from mim_keras.optimizers import RowwiseAdam
        >>> table = keras.layers.Embedding(4, 2)
        >>> model = keras.Sequential([table, keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.compile(RowwiseAdam(0.1), loss="mse")
        >>> history = model.fit(np.array([[2], [2]]), np.ones(2), verbose=0)
        >>> [variable.shape for variable in model.optimizer.variables if "embedding" in variable.path][0]
        TensorShape([4, 1])

    Source: AdaGrad (Duchi et al. 2011) with one accumulator a row, as in FBGEMM; lazy Adam as in TensorFlow Addons.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        tables: Sequence[str] = (r"/embeddings$",),
        table_update: TableUpdate = "rowwise_adagrad",
        table_learning_rate: float = 1.0,
        table_l2: float = 0.0,
        **options: Any,
    ) -> None:
        if options.pop("amsgrad", False):
            raise ValueError("RowwiseAdam has no amsgrad; received amsgrad=True. Leave it out.")
        if table_update not in get_args(TableUpdate):
            choices = " or ".join(get_args(TableUpdate))
            raise ValueError(f"table_update must be {choices}; received {table_update!r}. Choose one.")
        if table_learning_rate <= 0 or table_l2 < 0:
            raise ValueError(
                "table_learning_rate must be positive and table_l2 0 or more; received "
                f"{table_learning_rate} and {table_l2}. 1 and 0 change nothing."
            )
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **options)
        self.tables, self.table_update = tuple(tables), table_update
        self.table_learning_rate, self.table_l2 = table_learning_rate, table_l2
        self._pattern = re.compile("|".join(self.tables)) if self.tables else None
        self._last_places: list[Any] = []  # variables of `sum_rows_in_place`, by the place of their table

    def build(self, variables: list[Any]) -> None:
        """Makes the state of each variable; that of a table is in docs/models.md."""
        if self.built:
            return
        self._table_places = [self._is_table(variable) for variable in variables]
        for variable in filter(self._is_table, variables):
            if len(variable.shape) != 2:
                raise ValueError(
                    f"RowwiseAdam: a table has the shape [rows, dim]; {_path(variable)} has {tuple(variable.shape)}. "
                    f"Change tables={self.tables}."
                )
        super().build(variables)
        # Replicas cannot each write into a variable that they share.
        in_place = keras.backend.backend() == "tensorflow" and self._replicas() == 1
        self._last_places = [
            self.add_variable((variable.shape[0],), dtype="int32", name=f"{_name(variable)}_last_place")
            if in_place and self._is_table(variable)
            else None
            for variable in variables
        ]

    def add_variable_from_reference(self, reference_variable: Any, name: Any = None, initializer: Any = "zeros") -> Any:
        """As Keras; of row-wise Adagrad a table has one number a row, and no momentum."""
        adagrad = self.table_update == "rowwise_adagrad" and self._is_table(reference_variable)
        if not adagrad or name not in ("momentum", "velocity"):
            return super().add_variable_from_reference(reference_variable, name, initializer)
        if name == "momentum":
            return None
        shape, dtype = (reference_variable.shape[0], 1), reference_variable.dtype
        return self.add_variable(shape, dtype=dtype, name=f"{_name(reference_variable)}_{name}")

    def _is_table(self, variable: Any) -> bool:
        return self._pattern is not None and bool(self._pattern.search(_path(variable)))

    def _replicas(self) -> int:
        if keras.backend.backend() != "tensorflow":
            return 1
        return int(self._distribution_strategy.num_replicas_in_sync)

    # -- a step --------------------------------------------------------------------------------------------

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> None:
        summed = [self._sum_rows(one, of) for one, of in zip(grads, trainable_variables, strict=True)]
        super()._backend_apply_gradients(summed, trainable_variables)

    def _sum_rows(self, gradient: Any, variable: Any) -> Any:
        """The gradient with each row of a table once; of another variable it becomes dense.

        Keras' Adam takes the squares of gradients before it sums those of one row.
        """
        place = self._get_variable_index(variable)
        if not self._table_places[place]:
            return ops.convert_to_tensor(gradient)
        if not is_row_gradient(gradient):
            return gradient
        last_place = self._last_places[place]
        return sum_rows(gradient) if last_place is None else sum_rows_in_place(gradient, last_place)

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        values = super()._clip_gradients([split_rows(gradient)[1] for gradient in grads])
        return [with_values(gradient, clipped) for gradient, clipped in zip(grads, values, strict=True)]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates a variable, or the rows of a table whose gradient is not zero."""
        place = self._get_variable_index(variable)
        if not self._table_places[place]:
            super().update_step(gradient, variable, learning_rate)
            return
        if is_row_gradient(gradient) and self._replicas() > 1:
            gradient = sum_rows(gradient)  # rows of several replicas
        rows, values = split_rows(gradient)
        values = ops.cast(values, variable.dtype)
        used = ops.any(ops.not_equal(values, 0), axis=-1, keepdims=True)
        if self.table_l2:
            decay = 2 * self.table_l2 * gather_rows(variable, rows)
            values = values + ops.where(used, decay, ops.zeros_like(decay))
        make_step = self._adagrad_step if self.table_update == "rowwise_adagrad" else self._adam_step
        rate = ops.cast(learning_rate, variable.dtype) * self.table_learning_rate
        self.assign_sub(variable, with_values(gradient, rate * make_step(with_values(gradient, values), place, used)))

    def _adagrad_step(self, gradient: Any, place: int, used: Any) -> Any:
        """What is subtracted from each row at a learning rate of 1; zero where the gradient is."""
        rows, values = split_rows(gradient)
        accumulator = self._velocities[place]
        square = ops.mean(ops.square(values), axis=-1, keepdims=True)
        total = gather_rows(accumulator, rows) + square
        self.assign_add(accumulator, with_values(gradient, square))
        return values / (ops.sqrt(total) + self.epsilon)

    def _adam_step(self, gradient: Any, place: int, used: Any) -> Any:
        """What is subtracted from each row at a learning rate of 1; zero where `used`, bool [rows, 1], is false."""
        rows, values = split_rows(gradient)
        zeros, step = ops.zeros_like(values), ops.cast(self.iterations + 1, values.dtype)

        def moment(state: Any, value: Any, beta: float) -> Any:
            before = gather_rows(state, rows)
            change = ops.where(used, (value - before) * (1 - beta), zeros)
            after = before + change  # before the assignment, since a dense `before` may be the variable itself
            self.assign_add(state, with_values(gradient, change))
            return after

        mean = moment(self._momentums[place], values, self.beta_1)
        variance = moment(self._velocities[place], ops.square(values), self.beta_2)
        corrections = [1 - ops.power(ops.cast(beta, values.dtype), step) for beta in (self.beta_1, self.beta_2)]
        rate = ops.sqrt(corrections[1]) / corrections[0]
        return ops.where(used, rate * mean / (ops.sqrt(variance) + self.epsilon), zeros)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["amsgrad"]
        names = ("table_update", "table_learning_rate", "table_l2")
        return {**config, "tables": list(self.tables), **{name: getattr(self, name) for name in names}}


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _name(variable: Any) -> str:
    return _path(variable).replace("/", "_").replace(":", "_")
