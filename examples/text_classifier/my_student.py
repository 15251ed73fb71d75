"""The student: half as wide, one block."""

from my_data import VOCABULARY
from text_transformer import TextClassifier


def student(num_classes, input_shapes, width=32, depth=1, heads=4):
    """Narrow, of a single block."""
    (length,) = input_shapes["tokens"]
    return TextClassifier(len(VOCABULARY), length, num_classes, width, depth, heads)
