from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from edgedistill.pipeline import plugins
from edgedistill.pipeline.errors import ConfigError, EdgeDistillError

EVERY = [(kind, name) for kind in plugins.LISTED for name in plugins.names(kind)]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "litert_torch", "ai_edge_litert",
         "ai_edge_quantizer", "tensorflow")  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_entry_point_loads_and_knows_its_name(kind, name):
    plugin = plugins.load(kind, name)
    known = getattr(plugin, "name", None) or getattr(plugin, "kind", None)
    assert known == name


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_the_entry_points_of_every_kind_are_found(kind):
    assert plugins.names(kind) == sorted(e.name for e in entry_points(group=f"edgedistill.{kind}"))
    assert plugins.names(kind)


def test_loading_every_plugin_imports_nothing_heavy():
    code = (
        "import sys\nfrom edgedistill.pipeline import plugins\n"
        "for kind in plugins.LISTED:\n"
        "    for name in plugins.names(kind):\n"
        "        plugin = plugins.load(kind, name)\n"
        "        if kind in ('methods', 'models', 'data'):\n"
        "            plugin.Options.model_json_schema()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", plugins.names("experiments"))
def test_an_experiment_belongs_to_a_method_and_says_what_it_tries(name):
    assert plugins.method(name).citation
    experiment = plugins.load("experiments", name)()
    assert experiment.claim
    assert experiment.setting
    assert experiment.seeds >= 1


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_a_method_says_where_it_comes_from(name):
    method = plugins.method(name)
    assert method.summary
    assert method.citation or name == "none"  # labels only is nobody's paper
    assert method.Options().model_dump() is not None


def test_an_unknown_name_leads_to_the_known_ones():
    with pytest.raises(ConfigError, match="no exporters plugin is called 'onxx'") as caught:
        plugins.load("exporters", "onxx")
    assert "did you mean 'onnx'" in caught.value.hint


def test_a_plugin_that_cannot_be_imported(monkeypatch, tmp_path):
    folder = tmp_path / "broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[edgedistill.methods]\nbroken = no_such_module:X\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._entries.cache_clear()
    try:
        with pytest.raises(EdgeDistillError, match=r"'broken'.*no_such_module") as caught:
            plugins.method("broken")
        assert "doctor" in caught.value.hint
    finally:
        plugins._entries.cache_clear()
