"""Keras models as teachers: logits, layers by name, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistill.pipeline.contracts import Signature, Tap, TensorSpec
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.kerasteacher import KerasTeacher
from edgedistill.pipeline.training.signals import LiveTeacher
from edgedistill.pipeline.training.taps import resolve

pytest.importorskip("tensorflow")


def close(a, b):
    torch.testing.assert_close(a, torch.as_tensor(np.asarray(b)), atol=1e-5, rtol=1e-5)


def data(*inputs, classes=4):
    return Signature(inputs, (TensorSpec("logits", (None, classes), "float32"),))


def test_it_answers_as_keras_does(tmp_path, task, made):
    teacher = KerasTeacher(made.keras, task.data)
    close(teacher(task.images), made.logits(task))
    close(teacher(picture=task.images[:1]), made.logits(task)[:1])
    kept = teacher.keep(tmp_path / "teacher.keras")
    assert (kept.parameters, kept.layout) == (made.model.count_params(), "nhwc")
    close(KerasTeacher(tmp_path / "teacher.keras", task.data, "nhwc")(task.images),
          made.logits(task))  # fmt: skip


def test_layers_by_name_come_with_channels_first(task, made):
    import keras

    teacher = KerasTeacher(made.keras, task.data)
    assert teacher.taps == ("conv", "norm", "act", "pool", "flat", "head")
    taps = [Tap("act"), Tap("act", "pooled"), Tap("flat"), Tap("pool", "attention")]
    live = LiveTeacher(teacher, torch.device("cpu"), taps)
    signals = live.compute({"picture": task.images})
    layer = keras.Model(made.model.inputs, made.model.get_layer("act").output)
    maps = layer([task.nhwc], training=False).numpy()
    assert maps.shape == (5, 8, 6, 5)
    close(signals.features[taps[0]], maps.transpose(0, 3, 1, 2))
    close(signals.features[taps[1]], maps.mean((1, 2)))
    assert signals.features[taps[2]].shape == (5, 60)
    assert signals.features[taps[3]].shape == (5, 4, 3)
    close(signals.logits, made.logits(task))


def test_positions_leave_the_head_out(task, made):
    teacher = KerasTeacher(made.keras, task.data)
    assert [resolve(teacher, p, "teacher") for p in ("first", "middle", "last")] == [
        "conv", "act", "flat",
    ]  # fmt: skip
    with pytest.raises(ModelError, match="has no layer 'actt'") as caught:
        teacher.forward_with_taps(task.images, ["actt"])
    assert "act" in caught.value.hint


def test_of_a_layer_that_is_used_twice_the_first_use_is_read(tmp_path):
    import keras

    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    model.save(tmp_path / "t.keras")
    teacher = KerasTeacher(tmp_path / "t.keras", data(TensorSpec("x", (None, 4), "float32")))
    x, w = torch.randn(3, 4), model.weights[0].numpy()
    logits, features = teacher.forward_with_taps(x, ["shared"])
    close(features["shared"], x.numpy() @ w)
    close(logits, x.numpy() @ w @ w)


def test_a_layer_of_several_outputs_cannot_be_tapped(tmp_path):
    import keras

    inputs = keras.Input((5, 3))
    _, state, _ = keras.layers.LSTM(4, return_state=True, name="lstm")(inputs)
    keras.Model(inputs, keras.layers.Dense(4)(state)).save(tmp_path / "t.keras")
    teacher = KerasTeacher(tmp_path / "t.keras", data(TensorSpec("x", (None, 5, 3), "float32")))
    assert teacher(torch.zeros(2, 5, 3)).shape == (2, 4)
    with pytest.raises(ModelError, match="'lstm' of the teacher gives 3 tensors; expected one"):
        teacher.forward_with_taps(torch.zeros(1, 5, 3), ["lstm"])


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_several_inputs_by_name(tmp_path, structure):
    import keras

    keras.utils.set_random_seed(3)
    b, a = keras.Input((3,), name="b"), keras.Input((5,), name="a", dtype="int32")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(a))
    out = keras.layers.Dense(4)(keras.layers.Concatenate()([b, embedded]))
    given = [b, a] if structure == "list" else {"b": b, "a": a}
    model = keras.Model(given, out)
    model.save(tmp_path / "t.keras")
    specs = TensorSpec("a", (None, 5), "int64"), TensorSpec("b", (None, 3), "float32")
    teacher = KerasTeacher(tmp_path / "t.keras", data(*specs))
    tokens, values = torch.randint(0, 7, (6, 5)), torch.randn(6, 3)
    named = {"a": tokens.int().numpy(), "b": values.numpy()}
    wanted = model([named["b"], named["a"]] if structure == "list" else named)
    close(teacher(a=tokens, b=values), wanted)


def test_a_batch_that_is_fixed(tmp_path):
    import keras

    inputs = keras.Input(batch_shape=(2, 3))
    model = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    model.save(tmp_path / "t.keras")
    teacher = KerasTeacher(tmp_path / "t.keras", data(TensorSpec("x", (None, 3), "float32")))
    x = torch.randn(5, 3)
    close(teacher(x), x.numpy() @ model.weights[0].numpy())


def test_bad_files(tmp_path, task):
    import keras

    (tmp_path / "junk.keras").write_text("no model")
    for name in ("junk.keras", "gone.keras"):
        with pytest.raises(ModelError, match=f"{name} is not a readable .keras file"):
            KerasTeacher(tmp_path / name, task.data)
    inputs = keras.Input((8, 6, 3))
    flat = keras.layers.Flatten()(inputs)
    heads = [keras.layers.Dense(4, name=name)(flat) for name in ("one", "other")]
    keras.Model(inputs, heads).save(tmp_path / "two.keras")
    with pytest.raises(ModelError, match=r"two\.keras gives 2 outputs"):
        KerasTeacher(tmp_path / "two.keras", task.data)
    other = keras.Input((28, 28, 1), name="image")
    keras.Model(other, keras.layers.Flatten()(other)).save(tmp_path / "shape.keras")
    with pytest.raises(ModelError, match=r"'image' has the shape \(\?, 28, 28, 1\); the data's"):
        KerasTeacher(tmp_path / "shape.keras", task.data)


def test_code_of_ones_own_is_refused_with_a_way_out(tmp_path, task):
    import keras

    inputs = keras.Input((8, 6, 3))
    outputs = keras.layers.Lambda(lambda x: x[:, 0, 0])(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "own.keras")
    with pytest.raises(ModelError, match=r"not a readable \.keras file: .*Lambda") as caught:
        KerasTeacher(tmp_path / "own.keras", task.data)
    assert "savedmodel: folder" in caught.value.hint


def test_another_backend_is_told(task, made, monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ModelError, match="Keras runs on torch here; expected tensorflow"):
        KerasTeacher(made.keras, task.data)


def test_the_converted_file_takes_several_inputs_of_the_data(tmp_path):
    import keras
    from ai_edge_litert.interpreter import Interpreter

    from edgedistill.pipeline.models.teacherlite import to_tflite

    image, a = keras.Input((8, 6, 3), name="image"), keras.Input((5,), name="a", dtype="int32")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(a))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    out = keras.layers.Dense(4)(keras.layers.Concatenate()([pooled, embedded]))
    keras.Model([image, a], out).save(tmp_path / "t.keras")
    specs = (TensorSpec("a", (None, 5), "int64"),
             TensorSpec("image", (None, 3, 8, 6), "float32", "NCHW"))  # fmt: skip
    teacher = KerasTeacher(tmp_path / "t.keras", data(*specs))
    tokens, images = torch.randint(0, 7, (1, 5)), torch.randn(1, 3, 8, 6)
    runner = Interpreter(model_content=to_tflite(teacher)).get_signature_runner()
    answer = runner(a=tokens.numpy(), image=images.numpy())
    close(teacher(a=tokens, image=images), answer["logits"])
