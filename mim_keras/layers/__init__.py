"""Layers of the ranker, of contrastive training and of the item encoder."""

from mim_keras.layers.attribute_embedding import AttributeEmbedding
from mim_keras.layers.attribute_match import AttributeMatch
from mim_keras.layers.auxiliary_data import AuxiliaryData
from mim_keras.layers.compositional_embedding import CompositionalEmbedding
from mim_keras.layers.content_similarity import Similarity, content_similarity
from mim_keras.layers.cross_deep_head import CrossDeepHead
from mim_keras.layers.din_attention import DINAttention
from mim_keras.layers.gated_fusion import GatedFusion
from mim_keras.layers.history_encoder import EncodedHistory, HistoryEncoder
from mim_keras.layers.interest_attention import InterestAttention
from mim_keras.layers.item_table import ItemTable, ItemTableData
from mim_keras.layers.learned_similarity import LearnedSimilarity
from mim_keras.layers.mean_pooling import MeanPooling
from mim_keras.layers.modal_attention import ModalAttention
from mim_keras.layers.momentum_encoder import MomentumEncoder
from mim_keras.layers.multi_gate_head import MultiGateHead
from mim_keras.layers.negatives import KnownPositives, NegativeQueue, Negatives, false_negative_mask
from mim_keras.layers.projection_head import ProjectionHead
from mim_keras.layers.residual_adapter import ResidualAdapter
from mim_keras.layers.semantic_target_attention import SemanticTargetAttention
from mim_keras.layers.sim_tier import SimTier
from mim_keras.layers.target_attention import TargetAttention
from mim_keras.layers.target_encoder import EncodedTarget, TargetEncoder
from mim_keras.layers.top_k_search import TopKSearch

__all__ = [
    "AttributeEmbedding",
    "AttributeMatch",
    "AuxiliaryData",
    "CompositionalEmbedding",
    "CrossDeepHead",
    "DINAttention",
    "EncodedHistory",
    "EncodedTarget",
    "GatedFusion",
    "HistoryEncoder",
    "InterestAttention",
    "ItemTable",
    "ItemTableData",
    "KnownPositives",
    "LearnedSimilarity",
    "MeanPooling",
    "ModalAttention",
    "MomentumEncoder",
    "MultiGateHead",
    "NegativeQueue",
    "Negatives",
    "ProjectionHead",
    "ResidualAdapter",
    "SemanticTargetAttention",
    "SimTier",
    "Similarity",
    "TargetAttention",
    "TargetEncoder",
    "TopKSearch",
    "content_similarity",
    "false_negative_mask",
]
