"""What all foreign teachers share: which input gets what, in which order of axes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.pipeline.contracts import TensorSpec
from edgedistill.pipeline.errors import MissingDependency, ModelError
from edgedistill.pipeline.models.foreign import FOREIGN, ForeignKind, kept_in
from edgedistill.pipeline.models.foreignteacher import ForeignTeacher, Kept, Matcher

IMAGE = TensorSpec("picture", (None, 3, 8, 6), "float32", "NCHW")


def feed(shape, spec=IMAGE, default="", layout=None, dtype="float32"):
    port = TensorSpec("x", shape, dtype)
    return Matcher("t.keras", default, layout).feeds((port,), (spec,))[0]


@pytest.mark.parametrize(
    ("shape", "turned"),
    [((None, 8, 6, 3), True), ((None, 3, 8, 6), False), ((1, 8, 6, 3), True),
     ((None, None, None, 3), True), ((None, 3, None, None), False)],
)  # fmt: skip
def test_the_shape_tells_the_layout(shape, turned):
    found = feed(shape)
    assert found.to_nhwc is turned
    assert found.batch == shape[0]


def test_a_square_image_of_one_channel_is_told_apart():
    square = TensorSpec("picture", (None, 1, 8, 8), "float32", "NCHW")
    assert feed((None, 8, 8, 1), square).to_nhwc
    assert not feed((None, 1, 8, 8), square).to_nhwc


@pytest.mark.parametrize("shape", [(None, None, None, None), ()])
def test_an_open_layout_is_asked_for(shape):
    with pytest.raises(ModelError, match="in both orders of its axes") as caught:
        feed(shape)
    assert "teacher.layout: nhwc" in caught.value.hint
    assert feed(shape, layout="nhwc").to_nhwc
    assert not feed(shape, layout="nchw").to_nhwc
    assert not feed(shape, default="nchw").to_nhwc


def test_a_cube_is_asked_for():
    cube = TensorSpec("picture", (None, 3, 3, 3), "float32", "NCHW")
    with pytest.raises(ModelError, match="in both orders"):
        feed((None, 3, 3, 3), cube)


def test_a_layout_that_does_not_fit():
    with pytest.raises(ModelError, match=r"\(\?, 3, 8, 6\) in the layout nhwc of teacher.layout"):
        feed((None, 3, 8, 6), layout="nhwc")


def test_a_layout_without_images():
    vector = TensorSpec("x", (None, 5), "float32")
    with pytest.raises(ModelError, match="the data has no images"):
        feed((None, 5), vector, layout="nhwc")


@pytest.mark.parametrize("shape", [(None, 8, 8, 3), (None, 8, 6), (None, 144)])
def test_a_wrong_shape_names_both_orders(shape):
    with pytest.raises(ModelError, match=r"\(\?, 3, 8, 6\) or \(\?, 8, 6, 3\)"):
        feed(shape)


def test_dtypes():
    tokens = TensorSpec("tokens", (None, 5), "int64")
    assert feed((None, 5), tokens, dtype="int32").dtype == "int32"
    assert feed((None, 5), tokens, dtype="float32").dtype == "float32"
    with pytest.raises(ModelError, match="takes int32; the data's 'picture' is float32"):
        feed((None, 3, 8, 6), dtype="int32")


def test_inputs_by_name_else_by_order():
    ports = (TensorSpec("b", (None, 3), "float32"), TensorSpec("a", (None, 2), "float32"))
    same = (TensorSpec("a", (None, 2), "float32"), TensorSpec("b", (None, 3), "float32"))
    other = (TensorSpec("p", (None, 3), "float32"), TensorSpec("q", (None, 2), "float32"))
    matcher = Matcher("t", "", None)
    assert [(f.source, f.name) for f in matcher.feeds(ports, same)] == [("a", "a"), ("b", "b")]
    assert [(f.source, f.name) for f in matcher.feeds(ports, other)] == [("p", "b"), ("q", "a")]
    with pytest.raises(ModelError, match=r"has inputs \['b', 'a'\]; the data has inputs \['a'\]"):
        matcher.feeds(ports, same[:1])
    unordered = Matcher("t", "", None, ordered=False)
    assert [f.name for f in unordered.feeds(ports, same)] == ["a", "b"]
    assert [f.name for f in unordered.feeds(ports[:1], other[:1])] == ["b"]
    with pytest.raises(ModelError, match=r"the data has inputs \['p', 'q'\]"):
        unordered.feeds(ports, other)


class Sums(ForeignTeacher):
    """Sum over everything but the batch, in a batch that may be fixed."""

    key = "tflite"
    batch: int | None = None

    def keep(self, target):
        return Kept(0, self.layout)

    def _load(self):
        self.sizes = []
        return object()

    def _inputs(self):
        return (TensorSpec("x", (self.batch, 8, 6, 3), "float32"),)

    def _outputs(self):
        return ("y",)

    def _run(self, feeds, layers):
        (x,) = feeds.values()
        self.sizes.append(len(x))
        assert x.shape[1:] == (8, 6, 3)
        assert x.flags.c_contiguous
        return [x.sum((1, 2, 3), keepdims=True).reshape(-1, 1).astype(np.float64)]


@pytest.mark.parametrize(("batch", "sizes"), [(None, [256, 44]), (64, [64] * 5)])
def test_batches(task, monkeypatch, batch, sizes):
    monkeypatch.setattr(Sums, "batch", batch)
    teacher = Sums(Path("t.tflite"), task.data)
    x = torch.randn(300, 3, 8, 6)
    answer = teacher(picture=x)
    assert teacher.sizes == sizes
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, x.sum((1, 2, 3))[:, None], atol=1e-4, rtol=0)
    torch.testing.assert_close(copy.deepcopy(teacher)(x), answer)


def test_a_library_that_is_missing_tells_the_pip_line():
    lacking = ForeignKind(
        "keras", ".keras file", "t", "tflite", True, ("no_such_library",), (), "tensorflow", "", "",
        "",
    )  # fmt: skip
    with pytest.raises(MissingDependency, match=r"teacher.keras needs no_such_library") as caught:
        lacking.require()
    assert caught.value.hint == "pip install 'edgedistill[tensorflow]'"


def test_what_a_file_is_made_of(tmp_path):
    for name in ("m.onnx", "m.onnx.data", "other.onnx"):
        (tmp_path / name).write_text(name)
    names = [p.name for p in FOREIGN["onnx"].content(tmp_path / "m.onnx")]
    assert names == ["m.onnx", "m.onnx.data"]
    saved = tmp_path / "saved"
    (saved / "variables").mkdir(parents=True)
    assert not FOREIGN["savedmodel"].is_there(saved)
    for name in ("saved_model.pb", "variables/variables.index"):
        (saved / name).write_text(name)
    assert FOREIGN["savedmodel"].is_there(saved)
    assert len(FOREIGN["savedmodel"].content(saved)) == 2
    assert kept_in(tmp_path) is None
    (tmp_path / "teacher.keras").write_text("")
    assert kept_in(tmp_path) is FOREIGN["keras"]


@pytest.mark.parametrize("kind", FOREIGN.values(), ids=lambda kind: kind.key)
def test_every_kind_names_its_class(kind):
    assert kind.teacher_class().key == kind.key
