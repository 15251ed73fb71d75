"""Features are those that the layers really gave, without hooks, in either mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgedistill.pipeline.contracts import Tap
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.training.taps import Tapped, reduce, resolve, shapes


class Own(nn.Module):
    """A user's network: an in-place ReLU, a layer used twice, dropout by `self.training`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.spare = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.block(self.block(x))
        x = nn.functional.dropout(x.mean((2, 3)), 0.5, self.training)
        return self.head(x)


IMAGES = {"image": torch.randn((5, 1, 8, 8), generator=torch.Generator().manual_seed(0))}


def hooked(model: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    """The slow truth: what a forward hook sees, of the last call."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, args, out: seen.append(out.detach().clone())
    )
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[-1]


@pytest.mark.parametrize("layer", ["conv", "norm", "block", "block.0", "head"])
def test_features_of_a_users_network_are_those_of_its_layers(layer) -> None:
    model = Own().eval()
    logits, features = Tapped(model, [Tap(layer)], "student")(IMAGES)
    assert torch.equal(logits, model(IMAGES["image"]))
    assert torch.equal(features[Tap(layer)], hooked(model, layer, IMAGES["image"]))


def test_a_relu_that_works_in_place_does_not_change_what_was_tapped() -> None:
    _, features = Tapped(Own().eval(), [Tap("norm")], "student")(IMAGES)
    assert (features[Tap("norm")] < 0).any()


def test_what_a_network_decides_by_its_mode_follows_its_mode() -> None:
    model = Own()
    tapped = Tapped(model, [Tap("conv")], "student")
    assert model.training
    model.train()
    assert not torch.equal(tapped(IMAGES)[0], tapped(IMAGES)[0])
    model.eval()
    assert torch.equal(tapped(IMAGES)[0], tapped(IMAGES)[0])


def test_gradients_reach_the_owner_of_the_parameters() -> None:
    model = Own()
    keys = list(model.state_dict())
    _, features = Tapped(model, [Tap("block")], "student")(IMAGES)
    features[Tap("block")].sum().backward()
    assert model.conv.weight.grad is not None
    assert model.head.weight.grad is None
    assert list(model.state_dict()) == keys
    copy.deepcopy(model)


@pytest.mark.parametrize("name", ["dscnn", "resnet8", "mobilenetv2", "mlp", "transformer"])
def test_features_of_the_built_in_networks(kit, name) -> None:
    options = {"transformer": {"width": 8, "heads": 2, "depth": 2}}.get(name, {"width": 8})
    model = kit.model(name, **options).eval()
    for layer in model.taps:
        _, features = Tapped(model, [Tap(layer)], "teacher")(IMAGES)
        assert torch.equal(features[Tap(layer)], hooked(model, layer, IMAGES["image"]).float())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dscnn", {"first": "stem", "middle": "stage2", "last": "stage4"}),
        ("resnet8", {"first": "stem", "middle": "stage2", "last": "stage3"}),
        ("mlp", {"first": "hidden1", "middle": "hidden2", "last": "hidden2"}),
    ],
)
def test_positions_leave_the_head_out(kit, name, wanted) -> None:
    model = kit.model(name, width=4)
    assert {where: resolve(model, where, "student") for where in wanted} == wanted


def test_positions_of_a_users_network_are_of_its_own_children() -> None:
    own = {where: resolve(Own(), where, "student") for where in ("first", "middle", "last")}
    assert own == {"first": "conv", "middle": "relu", "last": "spare"}


def test_one_layer_is_nothing_to_tap() -> None:
    with pytest.raises(ModelError, match="the student is one piece, Linear"):
        resolve(nn.Linear(3, 3), "middle", "student")


def test_a_layer_that_does_not_exist_is_told_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="the teacher has no layer 'blok'") as caught:
        Tapped(Own(), [Tap("blok")], "teacher")
    assert "'block'" in caught.value.hint


def test_a_wrong_layer_of_a_built_in_network_is_told_with_the_nearest(kit) -> None:
    with pytest.raises(ModelError, match="stage9") as caught:
        Tapped(kit.model(), [Tap("stage9")], "student")(IMAGES)
    assert "stage" in caught.value.hint


def test_a_layer_that_is_never_called_is_told() -> None:
    with pytest.raises(ModelError, match="'spare' of the student is never called"):
        Tapped(Own(), [Tap("spare")], "student")


def test_a_network_that_cannot_be_followed_is_told_with_the_way_out() -> None:
    class Branching(Own):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    with pytest.raises(ModelError, match=r"torch\.fx cannot follow") as caught:
        Tapped(Branching(), [Tap("conv")], "student")
    assert "forward_with_taps" in caught.value.hint


@pytest.mark.parametrize(
    ("how", "shape", "wanted"),
    [
        ("", (2, 3, 4, 5), (2, 3, 4, 5)), ("pooled", (2, 3, 4, 5), (2, 3)),
        ("pooled", (2, 7, 3), (2, 3)), ("pooled", (2, 3), (2, 3)),
        ("attention", (2, 3, 4, 5), (2, 4, 5)),
    ],
)  # fmt: skip
def test_reductions(how, shape, wanted) -> None:
    feature = torch.randn(shape)
    got = reduce(feature, Tap("x", how), "x")
    assert got.shape == wanted
    if how == "attention":
        torch.testing.assert_close(got, torch.from_numpy((feature.numpy() ** 2).mean(1)))
    if how == "pooled":
        axes = {4: (2, 3), 3: (1,), 2: ()}[len(shape)]
        torch.testing.assert_close(got, torch.from_numpy(feature.numpy().mean(axes)))


@pytest.mark.parametrize(("how", "shape"), [("attention", (2, 3)), ("pooled", (2, 3, 4, 5, 6))])
def test_a_reduction_that_means_nothing_is_refused(how, shape) -> None:
    with pytest.raises(ModelError, match="layer 'stage2' gives"):
        reduce(torch.zeros(shape), Tap("middle", how), "stage2")


def test_probing_shapes_changes_nothing() -> None:
    model = Own()
    before = copy.deepcopy(model.state_dict())
    tapped = Tapped(model, [Tap("conv"), Tap("block", "pooled")], "student")
    assert shapes(tapped, IMAGES) == {Tap("conv"): (4, 8, 8), Tap("block", "pooled"): (4,)}
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
