"""Data are no weights."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import AuxiliaryData
from tests.mim_keras.cases import auxiliary_data

pytestmark = pytest.mark.any_backend


def test_its_arrays_are_no_weights_and_must_be_set() -> None:
    table = auxiliary_data()
    table(np.array([1]))
    assert not table.variables
    with pytest.raises(ValueError, match=r"received 'log_q' of features\. Set it"):
        table.all("log_q")
    with pytest.raises(ValueError, match=r"received 'features' of nothing"):
        AuxiliaryData().all("features")
