"""What the tests of the counted model share: three layers of VGG, and a prediction for one."""

from __future__ import annotations

from dataclasses import replace

from counted import model, work
from counted.hardware import H100
from harness.cases import group

from vggfast import configs

CONV = configs.Layer("conv4_2", "conv3x3", 512, 512, 28, 28, relu=True)
POOLED = replace(CONV, name="conv4_4", pool=True)
SMALL = replace(CONV, h=14, w=14)
FIRST = configs.Layer("conv1_1", "conv3x3", 3, 64, 224, 224, relu=True)


def predict(
    layer: configs.Layer, kind: str, n: int, dtype: str = "bf16", training: bool = False,
    place: work.Place = work.ALONE,
) -> model.Prediction:  # fmt: skip
    return model.predict(group([layer])[0], kind, n, dtype, H100, training, place)
