from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.models.weights import load_weights, save_weights


def network(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(
        {"model": "resnet8", "options": {"width": width}}, 3, {"input": (1, 8, 8)}, Path()
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_safetensors_round_trip(tmp_path: Path) -> None:
    model, other = network(1), network(2)
    assert not same(model, other)
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert same(model, other)


def test_the_file_depends_on_the_weights_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_weights(network(1), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_shared_tensors_round_trip(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    save_weights(model, tmp_path / "w.safetensors")
    assert len(load_file(tmp_path / "w.safetensors")) == 3
    load_weights(other, tmp_path / "w.safetensors")
    assert same(model, other)
    assert other.second.weight is other.first.weight


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_files(tmp_path: Path, wrapper: str | None, suffix: str) -> None:
    model, other = network(1), network(2)
    state = model.state_dict()
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / f"w{suffix}")
    load_weights(other, tmp_path / f"w{suffix}")
    assert same(model, other)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_prefixes_of_wrapping_modules(tmp_path: Path, wrap) -> None:
    model, other = network(1), network(2)
    torch.save(wrap(model).state_dict(), tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert same(model, other)


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    model, other = network(1), network(2)
    torch.save(model.half().state_dict(), tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert same(model.float(), other)
    assert other.head[2].weight.dtype == torch.float32


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Bomb(tmp_path / "exploded")}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="would run the code"):
        load_weights(network(), tmp_path / "w.pt")
    assert not (tmp_path / "exploded").exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="would run the code") as caught:
        load_weights(network(), tmp_path / "w.pt")
    assert "state_dict" in caught.value.hint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("junk", [b"", b"junk" * 100], ids=["empty", "junk"])
def test_junk_files(tmp_path: Path, suffix: str, junk: bytes) -> None:
    (tmp_path / f"w{suffix}").write_bytes(junk)
    with pytest.raises(ModelError, match=f"w{suffix} is not a"):
        load_weights(network(), tmp_path / f"w{suffix}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(network().state_dict(), path)
    else:
        save_weights(network(), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="is not a"):
        load_weights(network(), path)


def test_a_plain_pickle_of_numbers_is_not_a_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"epoch \(int\), loss \(float\), not a state dict"):
        load_weights(network(), tmp_path / "w.pt")
    (tmp_path / "v.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ModelError, match=r"v\.pt"):
        load_weights(network(), tmp_path / "v.pt")


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file"):
        load_weights(network(), tmp_path / "none.pt")
    (tmp_path / "w.bin").touch()
    with pytest.raises(ModelError, match=r"'\.bin'; expected \.safetensors"):
        load_weights(network(), tmp_path / "w.bin")


def test_shapes_that_differ_are_told_on_both_sides_and_nothing_is_loaded(tmp_path: Path) -> None:
    save_weights(network(1, width=8), tmp_path / "w.safetensors")
    model, before = network(2), network(2)
    with pytest.raises(
        ModelError, match=r"stem\.0\.weight is \(8, 1, 3, 3\) in the file"
    ) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    assert "(4, 1, 3, 3) in the model" in caught.value.message
    assert caught.value.message.count(" in the file") == 5
    assert "more" in caught.value.message
    assert same(model, before)


def test_missing_and_unexpected_keys(tmp_path: Path) -> None:
    state = network().state_dict()
    state["stranger"] = torch.zeros(2)
    del state["head.2.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"head\.2\.bias \(3,\) is missing") as caught:
        load_weights(network(), tmp_path / "w.safetensors")
    assert "stranger (2,) is not in the model" in caught.value.message
