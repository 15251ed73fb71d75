"""A small task and small foreign teachers of it, made once by their own libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edgedistill.pipeline.contracts import Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

SHAPE, CLASSES = (3, 8, 6), 4  # no two axes are the same, so that none can be mixed up


@dataclass(frozen=True, slots=True)
class Task:
    """Images `(N, 3, 8, 6)` of four classes."""

    data: Signature
    images: torch.Tensor

    @property
    def nhwc(self) -> np.ndarray:
        return np.ascontiguousarray(self.images.numpy().transpose(0, 2, 3, 1))


def signature(*inputs: TensorSpec, classes: int = CLASSES) -> Signature:
    return Signature(inputs, (TensorSpec("logits", (None, classes), "float32", "NC"),))


@pytest.fixture(scope="session")
def task() -> Task:
    random = torch.Generator().manual_seed(0)
    image = TensorSpec("picture", (None, *SHAPE), "float32", "NCHW")
    return Task(signature(image), torch.randn((5, *SHAPE), generator=random))


@dataclass(frozen=True, slots=True)
class KerasFiles:
    """One Keras model, and what Keras and TensorFlow make of it."""

    model: Any
    keras: Path
    savedmodel: Path
    tflite: Path

    def logits(self, task: Task) -> np.ndarray:
        return self.model(task.nhwc, training=False).numpy()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> KerasFiles:
    """A CNN with batch norm whose weights are random, in three kinds of files."""
    tf = pytest.importorskip("tensorflow")
    import keras

    keras.utils.set_random_seed(1)
    inputs = x = keras.Input((8, 6, 3), name="image")
    x = keras.layers.Conv2D(5, 3, padding="same", name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="act")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x))
    folder = tmp_path_factory.mktemp("made")
    model.save(folder / "t.keras")
    model.export(str(folder / "saved"), verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    (folder / "t.tflite").write_bytes(content)
    return KerasFiles(model, folder / "t.keras", folder / "saved", folder / "t.tflite")
