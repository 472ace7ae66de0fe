"""Losses in a VGG's feature space: of content (feature maps) and of style (Gram matrices).

criteria  the mean of squares or absolute values between maps
gram      the Gram matrix of a map, and its gradient in one product
loss      PerceptualLoss: weighted sums of both, with targets that are computed once
"""

from vggfast.perceptual.gram import gram_matrix
from vggfast.perceptual.loss import PerceptualLoss, Targets

__all__ = ["PerceptualLoss", "Targets", "gram_matrix"]
