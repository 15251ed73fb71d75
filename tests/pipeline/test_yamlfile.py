from __future__ import annotations

import pytest

from edgedistill.pipeline import yamlfile
from edgedistill.pipeline.errors import ConfigError


def test_knows_the_line_of_every_key():
    document = yamlfile.parse("a: 1\nb:\n  c: [1,\n    2]\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": [1, 2]}}
    assert document.place(("b", "c")) == "f.yaml:3"
    assert document.place(("b", "c", 1)) == "f.yaml:4"
    assert document.place(("b", "missing", "deeper")) == "f.yaml:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "f.yaml:1: not valid YAML"),
        ("a: 1\n\tb: 2", "f.yaml:2: not valid YAML"),
        ("- 1\n- 2", "expected a mapping"),
        ("", "expected a mapping"),
        ("just words", "expected a mapping"),
        ("a: &x [*x]", "an anchor holds itself"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(ConfigError) as caught:
        yamlfile.parse(text, "f.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a: 1\nb: 2\na: 3", "a", "given twice"),
        ("s:\n  x: 1\n  x: 2", "s.x", "given twice"),
        ("ok: 1\n\nb: !!python/object/apply:os.system [ls]", "b", "!!python"),
        ("ok: 1\n\nb: !secret 1", "b", "!secret"),
        ("ok: 1\n\nb: 2024-13-45", "b", "2024-13-45"),
    ],
)
def test_faults_have_a_place(text, path, value):
    with pytest.raises(ConfigError) as caught:
        yamlfile.parse(text, "f.yaml")
    (fault,) = caught.value.faults
    assert (fault.path, fault.where) == (path, "f.yaml:3")
    assert value.replace("!!", "") in fault.value


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "edge.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        yamlfile.read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file") as caught:
        yamlfile.read(tmp_path / "gone.yaml")
    assert "edgedistill init" in caught.value.hint
