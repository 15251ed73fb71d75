"""ONNX files as teachers: asked as they are, and taken over under the data's names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgedistill.pipeline.contracts import Signature, TensorSpec
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.onnxteacher import OnnxTeacher

onnxruntime = pytest.importorskip("onnxruntime")


def linear(path, shape, weight, names=("x", "y"), outputs=1):
    """`y = flatten(x) w`, of inputs of one shape."""
    inside, outside = names
    wanted = [outside, *(f"more{i}" for i in range(outputs - 1))]
    nodes = [helper.make_node("Flatten", [inside], ["flat"], axis=1)]
    nodes += [helper.make_node("MatMul", ["flat", "w"], [name]) for name in wanted]
    size = weight.shape[1]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(inside, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name in wanted],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(0).standard_normal((144, 4)).astype(np.float32)


@pytest.mark.parametrize("batch", ["n", 2])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["nchw", "nhwc"])
def test_the_kept_file_takes_the_data_as_it_is(tmp_path, task, weight, batch, order):
    images = task.images.numpy().transpose(order)
    path = linear(tmp_path / "m.onnx", [batch, *images.shape[1:]], weight)
    wanted = torch.from_numpy(images.reshape(5, -1) @ weight)
    teacher = OnnxTeacher(path, task.data)
    torch.testing.assert_close(teacher(task.images), wanted, atol=1e-4, rtol=1e-4)
    kept = teacher.keep(tmp_path / "teacher.onnx")
    assert (kept.parameters, kept.layout) == (576, "nchw")
    session = onnxruntime.InferenceSession(str(tmp_path / "teacher.onnx"))
    ports = (*session.get_inputs(), *session.get_outputs())
    assert [port.name for port in ports] == ["picture", "logits"]
    assert session.get_inputs()[0].shape == [batch, 3, 8, 6]
    again = OnnxTeacher(tmp_path / "teacher.onnx", task.data, kept.layout)
    assert torch.equal(again(picture=task.images), teacher(task.images))


def test_a_stranger_inside_may_bear_a_wanted_name(tmp_path, task, weight):
    path = linear(tmp_path / "m.onnx", [None, 3, 8, 6], weight, names=("logits", "picture"))
    teacher = OnnxTeacher(path, task.data)
    teacher.keep(tmp_path / "k.onnx")
    again = OnnxTeacher(tmp_path / "k.onnx", task.data, "nchw")
    assert torch.equal(again(task.images), teacher(task.images))


def test_branches_see_the_renamed_input(tmp_path):
    """A graph inside a node reads a value of the graph around it."""
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["x"], ["inner"])], name, [], [out]
        )
        for name, operator in (("then", "Neg"), ("else", "Identity"))
    }
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], **branches)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])], [yes],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "m.onnx"))
    data = Signature(
        (TensorSpec("values", (None, 4), "float32"),), (TensorSpec("logits", (None, 4), "float32"),)
    )
    OnnxTeacher(tmp_path / "m.onnx", data).keep(tmp_path / "k.onnx")
    x = torch.randn(3, 4)
    assert torch.equal(OnnxTeacher(tmp_path / "k.onnx", data)(x), -x)


def test_bad_files(tmp_path, task, weight):
    (tmp_path / "junk.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"junk.onnx is not a readable ONNX file"):
        OnnxTeacher(tmp_path / "junk.onnx", task.data)
    with pytest.raises(ModelError, match="is not a readable ONNX file"):
        OnnxTeacher(tmp_path / "gone.onnx", task.data)
    two = linear(tmp_path / "two.onnx", [None, 3, 8, 6], weight, outputs=2)
    with pytest.raises(ModelError, match=r"two.onnx gives 2 outputs \(y, more0\)"):
        OnnxTeacher(two, task.data)
    wrong = linear(tmp_path / "wrong.onnx", [None, 144], weight)
    with pytest.raises(ModelError, match=r"input 'x' has the shape \(\?, 144\); the data's"):
        OnnxTeacher(wrong, task.data)
