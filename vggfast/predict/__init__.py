"""From images to the names of their classes.

predictor    the network, batches, the likeliest classes
images       files, PIL images and arrays of any library as tensors, without needless copies
preprocess   rescaled, cropped and normalised as the weights ask for
"""

from vggfast.predict.predictor import Predictions, Predictor

__all__ = ["Predictions", "Predictor"]
