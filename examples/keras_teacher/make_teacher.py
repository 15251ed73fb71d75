"""A Keras model of your own, trained by Keras, on the very splits that edge.yaml names."""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from edgedistill.pipeline.data.load import load_data

HERE = Path(__file__).parent
EPOCHS, BATCH = 10, 64


def images(dataset, split):
    """Pre-processed images as Keras wants them, channels last, and their labels."""
    samples = getattr(dataset, split)
    (values,) = dataset.preprocessing.apply(samples.inputs).values()
    return np.moveaxis(values, 1, -1), samples.targets


def build(classes, width=32):
    """A plain CNN. Its last layer has no activation: a teacher gives logits."""
    inputs = x = keras.Input((28, 28, 1), name="image")
    for number, channels in enumerate((width, 2 * width, 4 * width)):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=f"block{number}")(x)
        x = layers.MaxPooling2D(padding="same")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def main():
    """Train it, look at the validation split, write teacher.keras."""
    keras.utils.set_random_seed(0)
    dataset = load_data({"source": "mnist5k"}, HERE)
    x, y = images(dataset, "train")
    rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(x) // BATCH)
    model = build(len(dataset.labels))
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    validation = images(dataset, "validation")
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, validation_data=validation, verbose=2)
    model.save(HERE / "teacher.keras")


if __name__ == "__main__":
    main()
