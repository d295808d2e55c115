"""Contrastive losses."""

from mim_keras.losses.clip import CLIPLoss
from mim_keras.losses.info_nce import InfoNCE, mask_logits
from mim_keras.losses.siglip import SigLIPLoss

__all__ = ["CLIPLoss", "InfoNCE", "SigLIPLoss", "mask_logits"]
