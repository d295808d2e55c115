"""The models: the item encoder, and one model a stage."""

from mim_keras.models.ciubm import CiUBM, Ranker, VocabularySizes
from mim_keras.models.content_branch import ContentBranch
from mim_keras.models.csft import Csft
from mim_keras.models.ensemble import RankerEnsemble, make_ranker
from mim_keras.models.image_text_alignment import ImageTextAlignment
from mim_keras.models.item_encoder import ItemEncoder

__all__ = [
    "CiUBM",
    "ContentBranch",
    "Csft",
    "ImageTextAlignment",
    "ItemEncoder",
    "Ranker",
    "RankerEnsemble",
    "VocabularySizes",
    "make_ranker",
]
