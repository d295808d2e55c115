"""Metrics of ranking and retrieval."""

from mim_keras.metrics.calibration import CalibrationError, calibration_error
from mim_keras.metrics.catalogue_recall import CatalogueRecallAtK
from mim_keras.metrics.gauc import auc, gauc, log_loss, per_group_auc, ranking_metrics
from mim_keras.metrics.paired import PairedDifference, paired_auc_difference
from mim_keras.metrics.streaming_gauc import StreamingGAUC

__all__ = [
    "CalibrationError",
    "CatalogueRecallAtK",
    "PairedDifference",
    "StreamingGAUC",
    "auc",
    "calibration_error",
    "gauc",
    "log_loss",
    "paired_auc_difference",
    "per_group_auc",
    "ranking_metrics",
]
