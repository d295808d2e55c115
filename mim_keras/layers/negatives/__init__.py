"""Pools of negatives for contrastive training.  Each returns `Negatives`; row 0 is padding in all of them."""

from mim_keras.layers.negatives.cross_replica import CrossReplicaNegatives
from mim_keras.layers.negatives.false_negative_mask import StepPairs, false_negative_mask
from mim_keras.layers.negatives.hard import HardNegatives
from mim_keras.layers.negatives.in_batch import InBatchNegatives, Negatives
from mim_keras.layers.negatives.known_positives import KnownPositives
from mim_keras.layers.negatives.queue import NegativeQueue

__all__ = [
    "CrossReplicaNegatives",
    "HardNegatives",
    "InBatchNegatives",
    "KnownPositives",
    "NegativeQueue",
    "Negatives",
    "StepPairs",
    "false_negative_mask",
]
