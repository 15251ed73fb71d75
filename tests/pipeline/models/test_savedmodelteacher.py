"""SavedModels as teachers."""

from __future__ import annotations

import pytest
import torch

from edgedistill.pipeline.contracts import Signature, TensorSpec
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.savedmodelteacher import SavedModelTeacher
from edgedistill.pipeline.training.taps import resolve

tf = pytest.importorskip("tensorflow")


class Net(tf.Module):
    """Logits of vectors, by functions of several names."""

    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal((3, 4), (1, 2)))

    @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
    def logits(self, x):
        return {"y": x @ self.w}

    @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
    def both(self, x):
        return {"y": x @ self.w, "z": x}


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture
def vectors():
    return Signature(
        (TensorSpec("v", (None, 3), "float32"),), (TensorSpec("logits", (None, 4), "float32"),)
    )


def test_it_answers_as_keras_does(tmp_path, task, made):
    teacher = SavedModelTeacher(made.savedmodel, task.data)
    torch.testing.assert_close(
        teacher(task.images), torch.as_tensor(made.logits(task)), atol=1e-5, rtol=1e-5
    )
    kept = teacher.keep(tmp_path / "teacher.savedmodel")
    assert (kept.parameters, kept.layout) == (made.model.count_params(), "nhwc")
    again = SavedModelTeacher(tmp_path / "teacher.savedmodel", task.data, "nhwc")
    torch.testing.assert_close(again(task.images), teacher(task.images))
    with pytest.raises(ModelError, match="SavedModelTeacher: it has no layers to tap"):
        resolve(teacher, "middle", "teacher")


def test_the_only_signature_is_taken(tmp_path, net, vectors):
    tf.saved_model.save(net, str(tmp_path / "m"), signatures={"ask": net.logits})
    x = torch.randn(5, 3)
    found = SavedModelTeacher(tmp_path / "m", vectors)(x)
    torch.testing.assert_close(found, x @ torch.as_tensor(net.w.numpy()))


def test_signatures_that_cannot_be_told_apart(tmp_path, net, vectors):
    asked = {"ask": net.logits, "other": net.logits}
    tf.saved_model.save(net, str(tmp_path / "m"), signatures=asked)
    with pytest.raises(ModelError, match=r"has the signatures \['ask', 'other'\]"):
        SavedModelTeacher(tmp_path / "m", vectors)


def test_bad_folders(tmp_path, net, vectors, task, made):
    with pytest.raises(ModelError, match="gone is not a readable SavedModel"):
        SavedModelTeacher(tmp_path / "gone", vectors)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "saved_model.pb").write_text("no model")
    with pytest.raises(ModelError, match=r"junk is not a readable SavedModel: .*pars"):
        SavedModelTeacher(tmp_path / "junk", vectors)
    tf.saved_model.save(net, str(tmp_path / "two"), signatures=net.both)
    with pytest.raises(ModelError, match=r"two gives 2 outputs \(y, z\)"):
        SavedModelTeacher(tmp_path / "two", vectors)
    with pytest.raises(ModelError, match=r"has the shape \(\?, 8, 6, 3\); the data's 'v' is"):
        SavedModelTeacher(made.savedmodel, vectors)
