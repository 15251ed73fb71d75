from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from edgedistill.pipeline.errors import ConfigError, ModelError
from edgedistill.pipeline.models.build import build_model, call_model, check_model

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = {"input": (4,)}


def write(folder: Path, text: str, name: str = "my_model.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def build(root: Path, model: str = "my_model.py:build", shapes: dict = SHAPES, **options):
    return build_model({"model": model, "options": options}, 3, shapes, root)


def test_a_function_gets_what_its_signature_asks_for(tmp_path: Path) -> None:
    write(
        tmp_path,
        "from torch import nn\n"
        "def build(num_classes, input_shape, bias=True):\n"
        "    return nn.Linear(input_shape[0], num_classes, bias=bias)\n",
    )
    model = build(tmp_path, bias=False)
    assert isinstance(model, nn.Linear)
    assert (model.in_features, model.out_features, model.bias) == (4, 3, None)


def test_a_class_without_parameters_will_do(tmp_path: Path) -> None:
    write(
        tmp_path,
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n",
    )
    assert type(build(tmp_path, "my_model.py:Net")).__name__ == "Net"


def test_several_inputs_are_passed_by_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        "from torch import nn\n"
        "class Two(nn.Module):\n"
        "    def __init__(self, shapes, num_classes):\n"
        "        super().__init__()\n"
        "        self.a = nn.Linear(shapes['a'][0], num_classes)\n"
        "        self.b = nn.Linear(shapes['b'][0], num_classes)\n"
        "    def forward(self, b, a):\n"
        "        return self.a(a) - self.b(b)\n"
        "def build(num_classes, input_shapes):\n"
        "    return Two(input_shapes, num_classes)\n",
    )
    model = build(tmp_path, shapes={"a": (4,), "b": (5,)})
    a, b = torch.randn(2, 4), torch.randn(2, 5)
    assert torch.equal(call_model(model, {"a": a, "b": b}), model.a(a) - model.b(b))


def test_a_family_refuses_several_inputs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one input; the data has a, b"):
        build(tmp_path, "mlp", {"a": (4,), "b": (5,)})


def test_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'resnet21'") as caught:
        build(tmp_path, "resnet21")
    assert "'resnet20'" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        pytest.param({"widht": 8}, "widht", "'width'", id="unknown"),
        pytest.param({"width": 0}, "width = 0", "Options: width", id="too small"),
        pytest.param({"width": "x", "dropout": 1.5}, "width.*dropout", "depth", id="all at once"),
    ],
)
def test_wrong_options_of_a_family(tmp_path: Path, options: dict, message: str, hint: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(tmp_path, "mlp", **options)
    assert hint in caught.value.hint


def test_heads_must_divide_width(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="width 10 is not a multiple of heads 4"):
        build(tmp_path, "transformer", {"input": (8, 4)}, width=10)


def test_wrong_options_of_a_function(tmp_path: Path) -> None:
    write(tmp_path, "def build(width): ...\n")
    with pytest.raises(ModelError, match="widht") as caught:
        build(tmp_path, widht=8)
    assert "'width'" in caught.value.hint


def test_something_else_than_a_module(tmp_path: Path) -> None:
    write(tmp_path, "def build(): return {'not': 'a model'}\n")
    with pytest.raises(ModelError, match="returned dict"):
        build(tmp_path)


def test_a_failing_function_is_told_by_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "from torch import nn\ndef build():\n    return nn.Linear(-1, 3)\n")
    with pytest.raises(ModelError, match=f"{path}:3: RuntimeError") as caught:
        build(tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_logits_must_be_one_tensor() -> None:
    with pytest.raises(ModelError, match="returned tuple"):
        call_model(Pair(), {"input": torch.zeros(1, 2)})


def test_check_accepts_and_restores_the_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model[1].eval()
    check_model(model, {"input": torch.randn(2, 4)}, 3)
    assert [m.training for m in model.modules()] == [True, True, False]
    assert int(model[1].num_batches_tracked) == 0


def test_check_compares_the_logits_with_the_classes() -> None:
    with pytest.raises(ModelError, match=r"gives \(2, 7\), expected \(2, 3\)"):
        check_model(nn.Linear(4, 7), {"input": torch.zeros(2, 4)}, 3)


def test_check_tells_shapes_when_the_model_fails() -> None:
    with pytest.raises(ModelError, match=r"inputs \{'input': 'float32 \(2, 5\)'\}: RuntimeError"):
        check_model(nn.Linear(4, 3), {"input": torch.zeros(2, 5)}, 3)


def test_integers_that_became_floats_are_told_from_other_failures() -> None:
    with pytest.raises(ModelError, match="float32") as caught:
        check_model(nn.Embedding(9, 3), {"tokens": torch.zeros(2, 5)}, 3)
    assert "dtype: int64" in caught.value.hint


def test_a_forward_with_other_names_is_told_which_it_must_have() -> None:
    both = {"tokens": torch.zeros(2, 5), "mask": torch.zeros(2, 5)}
    with pytest.raises(ModelError) as caught:
        check_model(nn.Linear(5, 3), both, 3)
    assert "tokens, mask" in caught.value.hint
