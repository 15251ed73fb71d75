"""Own models: plain torch. `num_classes` and `input_shape` are given where they are asked for."""

from torch import nn


def teacher(num_classes, input_shape, width=256):
    """A wide network."""
    (features,) = input_shape
    return nn.Sequential(
        nn.Linear(features, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(width, num_classes),
    )


def student(num_classes, input_shape, width=8):
    """A small one."""
    (features,) = input_shape
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, num_classes))
