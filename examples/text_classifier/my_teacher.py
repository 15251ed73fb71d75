"""The teacher: `num_classes` and `input_shapes` are given where they are asked for."""

from my_data import VOCABULARY
from text_transformer import TextClassifier


def teacher(num_classes, input_shapes, width=64, depth=2, heads=4):
    """Wide, of several blocks."""
    (length,) = input_shapes["tokens"]
    return TextClassifier(len(VOCABULARY), length, num_classes, width, depth, heads)
