from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.pipeline.data.load import data_files, load_data
from edgedistill.pipeline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.pipeline.data.dataset import Dataset

ARRAYS = """
import numpy as np
x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1])
def splits(factor=1.0):
    return {name: (x * np.float32(factor), y) for name in ("train", "validation", "test")}
"""


def load(folder: Path, text: str, **options) -> Dataset:
    (folder / "my_data.py").write_text(text)
    return load_data({"source": "my_data.py:splits", "options": options}, folder)


def returning(expression: str) -> str:
    return f"import numpy as np\nimport torch\ndef splits():\n    return {expression}\n"


def test_numpy_arrays(tmp_path: Path) -> None:
    data = load(tmp_path, ARRAYS, factor=2)
    np.testing.assert_array_equal(data.test.inputs["input"][1], [6, 8, 10])
    assert data.labels == ("0", "1")


def test_torch_tensors_by_input_name(tmp_path: Path) -> None:
    data = load(
        tmp_path,
        "import torch\n"
        "def splits():\n"
        "    x = {'a': torch.ones(2, 3, requires_grad=True), 'b': torch.zeros(2, 4)}\n"
        "    part = (x, torch.tensor([0, 1]))\n"
        "    return {'train': part, 'validation': part, 'test': part, 'labels': ['no', 'yes']}\n",
    )
    assert data.preprocessing.shapes() == {"a": (3,), "b": (4,)}
    assert data.train.targets.tolist() == [0, 1]
    assert data.labels == ("no", "yes")


def test_own_preprocessing(tmp_path: Path) -> None:
    spec = {"raw_shape": [3], "raw_dtype": "float32", "mean": [1.0], "std": [2.0]}
    text = ARRAYS + (
        f"spec, old = {spec}, splits\n"
        "def splits():\n"
        "    return {**old(), 'preprocessing': {'input': spec}}\n"
    )
    data = load(tmp_path, text)
    got = data.preprocessing.apply(data.train.inputs)["input"]
    np.testing.assert_array_equal(got[0], [-0.5, 0.0, 0.5])


def test_a_dataset_will_do(tmp_path: Path) -> None:
    data = load(
        tmp_path,
        "import numpy as np\n"
        "from edgedistill.pipeline.data.dataset import Dataset, Split\n"
        "from edgedistill.pipeline.data.preprocessing import InputSpec, Preprocessing\n"
        "def splits():\n"
        "    part = Split({'x': np.zeros((2, 3), 'float32')}, np.array([0, 1]))\n"
        "    spec = Preprocessing({'x': InputSpec((3,), 'float32')})\n"
        "    return Dataset(part, part, part, ('a', 'b'), spec)\n",
    )
    assert data.labels == ("a", "b")


def test_own_files_decide_the_data(tmp_path: Path) -> None:
    (tmp_path / "my_data.py").write_text("import reader\ndef splits(): ...\n")
    (tmp_path / "reader.py").touch()
    (tmp_path / "x.csv").touch()
    spec = {"source": "my_data.py:splits", "options": {"files": ["x.csv"]}}
    files = data_files(spec, tmp_path)
    assert [path.name for path in files] == ["my_data.py", "reader.py", "x.csv"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        pytest.param("[1, 2]", "returned list, expected a dict with the keys train", id="list"),
        pytest.param("{'train': 1}", r"missing keys \['validation', 'test'\]", id="missing"),
        pytest.param(
            "dict.fromkeys(['train', 'valid', 'test'])", r"unknown keys \['valid'\]", id="unknown"
        ),
        pytest.param(
            "dict.fromkeys(['train', 'validation', 'test'], np.ones(3))",
            r"split 'train' is ndarray, expected \(inputs, targets\)",
            id="no pair",
        ),
        pytest.param(
            "dict.fromkeys(['train', 'validation', 'test'], ([[1.0]], np.array([0])))",
            "input 'input' is list, expected a NumPy array",
            id="list of numbers",
        ),
        pytest.param(
            "dict.fromkeys(['train', 'validation', 'test'], "
            "(torch.ones(1, 2, dtype=torch.bfloat16), np.array([0])))",
            "input 'input' cannot become a NumPy array",
            id="bfloat16",
        ),
        pytest.param(
            "dict.fromkeys(['train', 'validation', 'test'], (np.ones((1, 2)), np.array([0])))",
            "expected at least 2",
            id="contract",
        ),
        pytest.param("1 / 0", r"my_data\.py:4: ZeroDivisionError", id="failure"),
    ],
)
def test_each_fault(tmp_path: Path, expression: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, returning(expression))


def test_wrong_arguments_name_the_parameters(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="facter") as caught:
        load(tmp_path, ARRAYS, facter=2)
    assert "'factor'" in caught.value.hint


def test_junk_preprocessing(tmp_path: Path) -> None:
    text = ARRAYS + "old = splits\ndef splits():\n    return {**old(), 'preprocessing': 3}\n"
    with pytest.raises(DataError, match="Preprocessing is 3"):
        load(tmp_path, text)
