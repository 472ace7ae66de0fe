"""Files of weights: ours, torchvision's, timm's and the Caffe release's, as one kind of model.

format    our own: safetensors, with what is needed to use the network as metadata
tensors   the tensors of any file, read without running code from it
names     what the same tensors are called elsewhere
network   the configuration that tensors belong to, with them
imagenet  torchvision's files, where torch.hub keeps them
classes   a file of class names
load      the one loader
export    a network as a state dict of torchvision's or timm's
"""

from vggfast.weights.format import Weights, save_weights
from vggfast.weights.load import Pretrained, load_pretrained, load_weights

__all__ = ["Pretrained", "Weights", "load_pretrained", "load_weights", "save_weights"]
