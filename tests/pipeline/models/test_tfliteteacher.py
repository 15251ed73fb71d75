"""TFLite files as teachers: asked as they are, and taken over for images as the data has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistill.pipeline.contracts import Signature, TensorSpec
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.tfliteteacher import TfliteTeacher

litert = pytest.importorskip("ai_edge_litert.interpreter")


def close(a, b):
    torch.testing.assert_close(a, torch.as_tensor(np.asarray(b)), atol=1e-5, rtol=1e-4)


def test_the_kept_file_takes_the_data_as_it_is(tmp_path, task, made):
    teacher = TfliteTeacher(made.tflite, task.data)
    close(teacher(task.images), made.logits(task))
    close(teacher(task.images[:2]), made.logits(task)[:2])  # another size than before
    kept = teacher.keep(tmp_path / "teacher.tflite")
    assert kept.layout == "nchw"
    assert 0 < kept.parameters <= made.model.count_params()  # batch norm is folded away
    again = TfliteTeacher(tmp_path / "teacher.tflite", task.data, kept.layout)
    assert [feed.to_nhwc for feed in again.feeds] == [False]
    close(again(task.images), made.logits(task))
    runner = litert.Interpreter(str(tmp_path / "teacher.tflite")).get_signature_runner()
    (name,) = runner.get_input_details()
    (answer,) = runner(**{name: task.images[:1].numpy()}).values()
    close(torch.as_tensor(answer), made.logits(task)[:1])


def test_a_file_of_the_datas_layout_is_kept_as_it_is(tmp_path):
    """As litert-torch writes it: batch 1, NCHW."""
    litert_torch = pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(48, 4))
    path = tmp_path / "m.tflite"
    litert_torch.convert(net.eval(), (torch.zeros(1, 3, 8, 6),)).export(str(path))
    data = Signature(
        (TensorSpec("image", (None, 3, 8, 6), "float32", "NCHW"),),
        (TensorSpec("logits", (None, 4), "float32"),),
    )
    teacher, x = TfliteTeacher(path, data), torch.randn(5, 3, 8, 6)
    close(teacher(x), net(x).detach())
    assert [feed.batch for feed in teacher.feeds] == [1]
    assert teacher.keep(tmp_path / "k.tflite").layout == "nchw"
    assert (tmp_path / "k.tflite").read_bytes() == path.read_bytes()


def test_bad_files(tmp_path, task, made):
    tf = pytest.importorskip("tensorflow")
    (tmp_path / "junk.tflite").write_text("no model")
    for name in ("junk.tflite", "gone.tflite"):
        with pytest.raises(ModelError, match=f"LiteRT cannot open .*{name}"):
            TfliteTeacher(tmp_path / name, task.data)
    vectors = Signature((TensorSpec("v", (None, 3), "float32"),), task.data.outputs)
    with pytest.raises(ModelError, match=r"has the shape \(\?, 8, 6, 3\); the data's 'v' is"):
        TfliteTeacher(made.tflite, vectors)

    @tf.function(input_signature=[tf.TensorSpec((1, 3))])
    def both(v):
        return {"a": v + 1.0, "b": v * 2.0}

    function = both.get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], both).convert()
    (tmp_path / "two.tflite").write_bytes(content)
    with pytest.raises(ModelError, match=r"two\.tflite gives 2 outputs"):
        TfliteTeacher(tmp_path / "two.tflite", vectors)


def test_quantized_ends_are_refused(tmp_path, task, made):
    tf = pytest.importorskip("tensorflow")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(made.savedmodel))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in task.nhwc)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (tmp_path / "q.tflite").write_bytes(converter.convert())
    with pytest.raises(ModelError, match=r"'image' is quantized int8 \(scale") as caught:
        TfliteTeacher(tmp_path / "q.tflite", task.data)
    assert "float32 inputs and outputs" in caught.value.hint
