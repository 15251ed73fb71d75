from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.build import build_model, call_model, find_family
from edgedistill.pipeline.models.staged import Staged

ROOT = Path(__file__).parent
FAMILIES = sorted(entry.name for entry in entry_points(group="edgedistill.models"))
IMAGE = (1, 28, 28)


def build(name: str, shape: tuple[int, ...] = IMAGE, classes: int = 10, **options) -> Staged:
    torch.manual_seed(0)
    spec = {"model": name, "options": options}
    model = build_model(spec, classes, {"input": shape}, ROOT)
    assert isinstance(model, Staged)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", [IMAGE, (3, 32, 32), (1, 8, 8)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_shape_and_gradients(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, classes=7)
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    ("name", "options", "low", "high"),
    [
        pytest.param("dscnn", {"width": 24}, 19_000, 22_000, id="student"),
        pytest.param("resnet20", {"width": 32}, 1_000_000, 1_150_000, id="teacher"),
        pytest.param("resnet8", {}, 70_000, 85_000, id="resnet8"),
        pytest.param("mobilenetv3", {}, 110_000, 122_000, id="mobilenetv3"),
    ],
)
def test_parameter_counts(name: str, options: dict, low: int, high: int) -> None:
    assert low <= parameters(build(name, **options)) <= high


@pytest.mark.parametrize("name", FAMILIES)
def test_width_makes_the_network_larger(name: str) -> None:
    assert parameters(build(name, width=16)) < parameters(build(name, width=32))


@pytest.mark.parametrize("name", FAMILIES)
def test_taps_are_what_a_forward_hook_sees(name: str) -> None:
    model, x = build(name).eval(), torch.randn(2, *IMAGE)
    seen: dict[str, torch.Tensor] = {}
    for tap in model.taps:
        block = model.get_submodule(tap)
        block.register_forward_hook(lambda _m, _i, out, tap=tap: seen.update({tap: out}))
    plain = model(x)
    logits, features = model.forward_with_taps(x, model.taps)
    assert tuple(features) == model.taps == find_family(name).taps
    assert torch.equal(logits, plain)
    assert torch.equal(features[model.taps[-1]], logits)
    for tap in model.taps:
        assert torch.equal(features[tap], seen[tap])
        assert features[tap].requires_grad


def test_only_the_wanted_taps_come_back() -> None:
    _, features = build("dscnn").forward_with_taps(torch.randn(2, *IMAGE), ["stage2"])
    assert {name: tuple(f.shape) for name, f in features.items()} == {"stage2": (2, 48, 7, 7)}


def test_unknown_tap_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="'stagee2'") as caught:
        build("dscnn").forward_with_taps(torch.randn(1, *IMAGE), ["stagee2"])
    assert "'stage2'" in caught.value.hint


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_depth_adds_taps(name: str) -> None:
    assert len(build(name, depth=3).taps) - len(build(name, depth=1).taps) == 2


def test_the_gates_of_mobilenetv3_weigh_channels_by_the_whole_image() -> None:
    excite = build("mobilenetv3").get_submodule("stage3.1.body.6").eval()
    x = torch.randn(2, 256, 4, 4)
    gates = excite(x) / x
    torch.testing.assert_close(gates, gates[:, :, :1, :1].expand_as(gates))
    assert gates.min() >= 0
    assert gates.max() <= 1
    moved = x.flip(2)
    torch.testing.assert_close(excite(moved), excite(x).flip(2))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    model, x = build(name).eval(), torch.randn(6, *IMAGE)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    with torch.no_grad():
        together = model(x)
        torch.testing.assert_close(model(x[order]), together[order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(x[2:3]), together[2:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_seed_decides_the_weights(name: str) -> None:
    first, again = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_stem_stride_one_keeps_the_resolution() -> None:
    _, fine = build("resnet8", stem_stride=1).forward_with_taps(torch.randn(1, *IMAGE), ["stem"])
    _, coarse = build("resnet8").forward_with_taps(torch.randn(1, *IMAGE), ["stem"])
    assert (fine["stem"].shape[-1], coarse["stem"].shape[-1]) == (28, 14)


@pytest.mark.parametrize(("patch", "tokens"), [(None, 24), (4, 6)])
def test_transformer_takes_sequences(patch: int | None, tokens: int) -> None:
    model = build("transformer", (24, 5), patch=patch)
    logits, features = model.forward_with_taps(torch.randn(2, 24, 5), ["stem"])
    assert logits.shape == (2, 10)
    assert features["stem"].shape == (2, tokens, 64)


def test_transformer_depends_on_the_order_of_tokens() -> None:
    model, x = build("transformer", (12, 4)).eval(), torch.randn(1, 12, 4)
    assert not torch.allclose(model(x), model(x.flip(1)), atol=1e-4)


def test_transformer_attention_against_an_explicit_softmax() -> None:
    block = build("transformer", (9, 4)).get_submodule("block1.attention.1")
    x = torch.randn(2, 9, 64)
    query, key, value = (part(x) for part in (block.query, block.key, block.value))
    heads = []
    for h in range(4):
        q, k, v = (t[..., 16 * h : 16 * (h + 1)] for t in (query, key, value))
        heads.append((q @ k.mT / 4.0).softmax(-1) @ v)
    torch.testing.assert_close(block(x), block.output(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "dscnn", "mobilenetv2", "mobilenetv3"])
def test_an_image_network_refuses_a_vector(name: str) -> None:
    with pytest.raises(ModelError, match=r"\(C, H, W\).*\(64,\)"):
        build(name, (64,))


def test_transformer_refuses_a_vector_and_a_patch_that_does_not_fit() -> None:
    with pytest.raises(ModelError, match=r"\(T, F\).*\(64,\)"):
        build("transformer", (64,))
    with pytest.raises(ModelError, match="patch 5 does not divide"):
        build("transformer", patch=5)


def test_mlp_refuses_an_empty_input() -> None:
    with pytest.raises(ModelError, match=r"\(0, 3\)"):
        build("mlp", (0, 3))


def test_every_option_has_a_description() -> None:
    for name in FAMILIES:
        for key, field in find_family(name).Options.model_fields.items():
            assert field.description, f"{name}.{key}"


def test_a_single_input_is_passed_by_position() -> None:
    model = build("mlp", (4,))
    x = torch.randn(2, 4)
    assert torch.equal(call_model(model, {"any_name": x}), model(x))


def test_the_catalogue_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; import edgedistill.pipeline.models.catalog; "
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
