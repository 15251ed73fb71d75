from __future__ import annotations

import itertools
from importlib.metadata import entry_points

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedistill.pipeline.quantization.equalisation import equalise
from edgedistill.pipeline.quantization.fakequant import prepare
from edgedistill.pipeline.quantization.folding import fold_batch_norm

FAMILIES = sorted(entry.name for entry in entry_points(group="edgedistill.models"))


def chain(*between: nn.Module, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 6, 3), *between, last or nn.Conv2d(6, 4, 1))


def outputs(layer: nn.Module) -> torch.Tensor:
    rows = layer.weight.detach().flatten(1).abs().amax(1)
    return rows if layer.bias is None else torch.maximum(rows, layer.bias.detach().abs())


def inputs(layer: nn.Module, channels: int) -> torch.Tensor:
    weight = layer.weight.detach().abs()
    if getattr(layer, "groups", 1) > 1:
        return weight.reshape(channels, -1).amax(1)
    return weight.transpose(0, 1).reshape(channels, -1).amax(1)


class Paths(nn.Module):
    """A sum, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.inner, self.twice = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.end = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.inner(F.relu(self.body(x)))
        return self.end(self.twice(F.relu(self.twice(x))))


class Functions(nn.Module):
    """What lies between layers is written as functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 12, 3, groups=6)
        self.point, self.hidden, self.head = (
            nn.Conv2d(12, 5, 1),
            nn.Linear(20, 7),
            nn.Conv1d(7, 3, 1),
        )
        self.one, self.two = nn.Conv1d(3, 4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(F.leaky_relu(self.conv(x), 0.2), 0.5, self.training)
        x = self.point(torch.relu_(self.depthwise(x)))
        x = F.adaptive_avg_pool2d(F.max_pool2d(x.relu(), 2), 2)
        x = self.hidden(x.view(x.size(0), -1)).relu().unsqueeze(2)
        return self.two(self.one(self.head(x)).mean(2))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_equalised_network_is_the_same_function(kit, built, far, name) -> None:
    model, x = built(name), torch.randn(9, *kit.shape)
    before = kit.weights(model)
    found = equalise(model)
    assert far(model(x), found.model(x)) < 1e-5
    assert kit.equal(before, kit.weights(model))
    assert found.replaced == ()
    wanted = {"dscnn": 9, "mlp": 2, "resnet8": 3, "mobilenetv2": 0, "transformer": 0}
    if name in wanted:
        assert len(found.pairs) == wanted[name]


def test_chains_through_depthwise_layers_are_found_in_order(built) -> None:
    pairs = equalise(built("dscnn")).pairs
    assert pairs[:3] == (
        ("stem.0", "stage1.0"), ("stage1.0", "stage1.3"), ("stage1.3", "stage2.0"),
    )  # fmt: skip
    assert pairs[-1] == ("stage4.3", "head.2")
    assert all(one[1] == two[0] for one, two in itertools.pairwise(pairs))


def test_the_ranges_of_every_pair_are_equal(built) -> None:
    found = equalise(built("dscnn"))
    for first, second in found.pairs:
        one, two = map(found.model.get_submodule, (first, second))
        ours, theirs = outputs(one), inputs(two, len(outputs(one)))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(chain(nn.ReLU(), nn.MaxPool2d(2)), id="max-pool"),
        pytest.param(chain(nn.Identity(), nn.Dropout(0.5), nn.AvgPool2d(2)), id="avg-pool"),
        pytest.param(chain(nn.Flatten(), last=nn.Linear(6 * 36, 3)), id="flatten"),
        pytest.param(
            chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last=nn.Linear(6, 3)), id="pooled"
        ),
        pytest.param(chain(nn.ReLU(), last=nn.Conv2d(6, 18, 3, groups=6)), id="multiplier"),
        pytest.param(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.LeakyReLU(0.3), nn.Linear(5, 2)),
            id="linear",
        ),
    ],
)
def test_functions_that_keep_a_pair(far, model) -> None:
    x = torch.randn(5, 1, 8, 8)
    first = next(layer for layer in model.eval() if hasattr(layer, "weight"))
    with torch.no_grad():
        first.weight[0] *= 50
    found = equalise(model)
    assert len(found.pairs) == 1
    assert far(model(x), found.model(x)) < 1e-5
    assert not torch.equal(found.model[-1].weight, model[-1].weight)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(chain(nn.Hardswish()), id="hardswish"),
        pytest.param(chain(nn.ReLU6()), id="relu6"),
        pytest.param(chain(nn.Sigmoid()), id="sigmoid"),
        pytest.param(chain(nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6)), id="norm"),
        pytest.param(chain(nn.ReLU(), last=nn.Conv2d(6, 4, 1, groups=2)), id="grouped"),
        pytest.param(chain(nn.Flatten(2), last=nn.Linear(36, 3)), id="places"),
        pytest.param(chain(last=nn.Linear(6, 3)), id="width"),
    ],
)
def test_functions_that_end_a_chain(far, model) -> None:
    x = torch.randn(5, 1, 8, 8)
    found = equalise(model.eval())
    assert found.pairs == ()
    assert far(model(x), found.model(x)) < 1e-5


def test_functions_and_methods_between_layers(far) -> None:
    model, x = Functions().eval(), torch.randn(4, 1, 9, 9)
    found = equalise(model)
    assert found.pairs == (
        ("conv", "depthwise"), ("depthwise", "point"), ("point", "hidden"),
        ("head", "one"), ("one", "two"),
    )  # fmt: skip
    assert far(model(x), found.model(x)) < 1e-5


def test_branches_and_layers_that_run_twice_break_pairs(far) -> None:
    model, x = Paths().eval(), torch.randn(4, 1, 6, 6)
    found = equalise(model)
    assert found.pairs == (("body", "inner"),)
    assert far(model(x), found.model(x)) < 1e-5


def test_two_layers_with_one_weight_are_no_pair() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert equalise(model).pairs == ()


def test_a_hidden_channel_that_is_lost_on_the_grid_is_brought_back() -> None:
    model, x = chain(nn.ReLU()).eval(), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        model[0].weight[0] *= 1e3
        model[0].bias[0] *= 1e3
        model[2].weight[:, 0] /= 1e3

    def noise(network: nn.Module) -> float:
        rounded = prepare(network).train()
        with torch.no_grad():
            wanted = model(x)
            return float((rounded(x) - wanted).square().sum() / wanted.square().sum())

    assert noise(model) > 0.1
    assert noise(equalise(model).model) < 1e-3


def test_channels_that_are_dead_or_tiny_stay_finite(far) -> None:
    model, x = chain(nn.ReLU()).eval(), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0
        model[2].weight[:, 1] = 0
        model[0].weight[2] *= 1e-20
        model[0].bias[2] = 0.5
    found = equalise(model)
    assert far(model(x), found.model(x)) < 1e-5
    assert max(float(p.abs().max()) for p in found.model.parameters()) < 10


def test_relu6_is_replaced_only_when_asked(kit, built) -> None:
    model = built("mobilenetv2")
    found = equalise(model, replace_relu6=True)
    assert found.pairs[0] == ("stage1.0.body.0", "stage1.0.body.3")
    assert found.replaced[0] == "stage1.0.body.2"
    assert len(found.replaced) == len(found.pairs)
    for path in found.replaced:
        assert type(model.get_submodule(path)) is nn.ReLU6
        assert type(found.model.get_submodule(path)) is nn.ReLU
    x = torch.randn(4, *kit.shape)
    unclipped = fold_batch_norm(model)
    for path in found.replaced:
        parent, _, name = path.rpartition(".")
        setattr(unclipped.get_submodule(parent), name, nn.ReLU())
    torch.testing.assert_close(found.model(x), unclipped(x), rtol=1e-4, atol=1e-4)
