from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from edgedistill.pipeline import plugins, trials
from edgedistill.pipeline.contracts import Figure, Missing
from edgedistill.pipeline.errors import (
    ConfigError,
    DataError,
    MissingDependency,
    StageError,
    StoreError,
)  # fmt: skip
from edgedistill.pipeline.experiments import pages, reproduce, tables
from edgedistill.pipeline.experiments.contract import Arm, Check, Outcome, Table

PNG = b"\x89PNG\r\n\x1a\n"


class Coin:
    """A claim about coins: fair ones come down heads half of the time."""

    claim = "fair coins <come> down heads half of the time (Nobody 1900, section 1)"
    setting = "pseudo-random coins"
    seeds = 3

    def run(self, seeds, progress):
        progress(1, 2, "tossing")
        shares = tuple(np.random.default_rng(s).random(100).mean() for s in range(seeds))
        steps = (torch.tensor(5.0), *(math.inf for _ in range(1, seeds)))
        title = "heads", "% & more"
        return Outcome(
            (
                Table(*title, (Arm("fair", shares), Arm("forged", (1.0,) * seeds)), digits=3),
                Table("tosses to the first edge", "tosses", (Arm("fair", steps),), digits=0),
            ),
            (Check("near half", True, "0.5"), Check("never <edge>", np.bool_(False), "5")),
            (
                Figure(
                    "share", "tosses", "heads", {"a": (range(1, 3), (0.5, math.inf))}, "read it so"
                ),
            ),
        )


class Broken(Coin):
    def run(self, seeds, progress):
        raise ZeroDivisionError("no coins")


class Refusing(Coin):
    def run(self, seeds, progress):
        raise DataError("no digits", "install them")


@pytest.fixture
def events():
    return []


@pytest.fixture
def result(tmp_path, events):
    (record,) = reproduce.reproduce({"kd": Coin()}, None, tmp_path, events.append)
    return record


def test_the_record_holds_everything(result, events):
    assert (result["method"], result["seeds"]) == ("kd", 3)
    assert result["claim"] == Coin.claim
    assert result["citation"] == plugins.method("kd").citation
    assert result["command"] == "edgedistill reproduce kd --seeds 3"
    assert result["seconds"] >= 0
    assert result["machine"]["cpu"]
    assert {"edgedistill", "torch"} <= result["versions"].keys()
    assert result["tables"][1]["arms"][0]["values"] == [5.0, "inf", "inf"]
    assert result["checks"][1]["holds"] is False
    assert result["figures"][0]["series"] == {"a": [[1, 2], [0.5, "inf"]]}
    assert [event.kind for event in events] == ["started", "progress", "done"]


def test_the_files(result, tmp_path):
    assert {path.name for path in tmp_path.iterdir()} == {"kd.json", "kd.png", "kd.html"}
    assert json.loads((tmp_path / "kd.json").read_text()) == result
    assert (tmp_path / "kd.png").read_bytes().startswith(PNG)


def test_the_page_needs_nothing_else_and_says_everything(result, tmp_path):
    page = (tmp_path / "kd.html").read_text("utf-8")
    assert "http" not in page
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert "fair coins &lt;come&gt; down" in page
    assert "heads (% &amp; more)" in page
    assert "1 of 2 checks hold here" in page
    assert page.index("does not hold here") < page.index("never &lt;edge&gt;")
    assert "read it so" in page


def test_the_pictures_are_well_formed_and_told_apart(result):
    found = list(pages._pictures(result))
    assert [picture.name for picture in found] == ["table-0", "table-1", "figure-0"]
    ids = [
        node.get("id") for picture in found
        for node in ElementTree.fromstring(picture.svg).iter() if node.get("id")
    ]  # fmt: skip
    assert len(ids) == len(set(ids))
    texts = {node.text for node in ElementTree.fromstring(found[1].svg).iter()}
    assert "2 of 3 never" in texts


def test_cells_of_a_table(result):
    first, second = map(tables.grid, result["tables"])
    assert first.heads == ("arm", "mean ± 95 %", "min", "max")
    assert first.rows[1] == ("forged", "1.000 ± 0.000", "1.000", "1.000")
    assert second.heads == ("arm", "mean ± 95 %", "median", "solved", "min", "max")
    assert second.rows == (("fair", "-", "never", "1/3", "5", "never"),)


def test_one_seed_has_no_interval(tmp_path, events):
    (record,) = reproduce.reproduce({"kd": Coin()}, 1, tmp_path, events.append)
    assert record["seeds"] == 1
    assert tables.grid(record["tables"][0]).rows[1] == ("forged", "1.000", "1.000", "1.000")


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [(1.26, 1, "1.3"), (-0.04, 1, "0.0"), (12345.6, 0, "12346"), (math.inf, 1, "never")],
)
def test_numbers(value, digits, words):
    assert tables.number(value, digits) == words


def test_a_broken_experiment_leaves_the_others(tmp_path, events):
    many = {"none": Broken(), "kd": Coin(), "fitnets": Refusing()}
    records = list(reproduce.reproduce(many, 2, tmp_path, events.append))
    assert [record["method"] for record in records] == ["kd"]
    failed = {event.stage: event.error for event in events if event.kind == "failed"}
    assert isinstance(failed["none"], StageError)
    assert isinstance(failed["none"].__cause__, ZeroDivisionError)
    assert "no coins" in str(failed["none"])
    assert isinstance(failed["fitnets"], DataError)
    assert not (tmp_path / "none.json").exists()


def test_an_unknown_method_leads_to_the_known_ones(plugged):
    with pytest.raises(ConfigError, match="'coyn'") as caught:
        reproduce.find(["coyn"])
    assert "did you mean 'coin'" in caught.value.hint


def test_what_is_missing_is_told_before_any_work(plugged, monkeypatch, tmp_path):
    absent = Missing(("matplotlib",), "report")
    monkeypatch.setattr(reproduce, "missing", lambda: absent)
    out = tmp_path / "out"
    with pytest.raises(MissingDependency, match="matplotlib") as caught:
        trials.reproduce_claims(["coin"], 2, out, as_json=False)
    assert "pip install" in caught.value.hint
    assert not out.exists()


def test_a_file_in_the_place_of_the_folder(plugged, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="expected a folder"):
        trials.reproduce_claims(["coin"], 2, tmp_path / "out", as_json=False)


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """An environment with a method `coin` and its experiment, and a broken one `torn`."""
    folder = tmp_path / "plugins" / "coins-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: coins\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[edgedistill.methods]\ncoin = coins:Toss\ntorn = coins:Toss\n"
        "[edgedistill.experiments]\ncoin = coins:Coin\ntorn = coins:Torn\n"
    )
    (folder.parent / "coins.py").write_text(
        "from edgedistill.pipeline.experiments.contract import Arm, Check, Outcome, Table\n"
        "class Toss:\n    citation = 'Nobody, 1900'\n"
        "class Coin:\n    claim, setting, seeds = 'a claim', 'a setting', 3\n"
        "    def run(self, seeds, progress):\n"
        "        arm = Arm('fair', tuple(range(seeds)))\n"
        "        table = Table('heads', '%', (arm,))\n"
        "        return Outcome((table,), (Check('many heads', False, 'few'),))\n"
        "class Torn(Coin):\n    def run(self, seeds, progress):\n        raise ValueError('torn')\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    plugins._entries.cache_clear()
    yield
    plugins._entries.cache_clear()


def test_a_claim_that_does_not_hold_is_a_result(plugged, project):
    ended = project.type("reproduce", "coin", "--seeds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "Nobody, 1900" in ended.stdout
    assert "heads (%), 2 seeds" in ended.stdout
    assert "0.5 +- 6.4" in ended.stdout
    assert "does not hold here: many heads" in ended.stdout
    assert ended.stdout.rstrip().endswith("reproduce/coin.html")
    assert "coin done" in ended.stderr
    assert (project.root / "reproduce" / "coin.png").is_file()


def test_json_is_one_document_and_a_broken_experiment_exits_1(plugged, project):
    ended = project.type("reproduce", "torn", "coin", "--json", "--out", "here")
    assert ended.returncode == 1
    (record,) = json.loads(ended.stdout)
    assert (record["method"], record["seeds"]) == ("coin", 3)
    assert "ValueError: torn" in ended.stderr
    assert json.loads((project.root / "here" / "coin.json").read_text()) == record


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names("experiments"))
def test_every_installed_experiment_runs_with_one_seed(project, name):
    ended = project.type("reproduce", name, "--seeds", "1", timeout=1200)
    assert ended.returncode == 0, ended.stderr
    assert (project.root / "reproduce" / f"{name}.html").is_file()
