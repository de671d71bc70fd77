"""The report: made from files alone, complete, escaped, offline; and its errors."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import xarray as xr

from dirprune.analysis.report import render, write_report
from dirprune.analysis.report.reading import read_run
from dirprune.analysis.report.words import ranges
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.model.errors import DirpruneError

from .made_run import Parser, make_run, visible

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run and its report; tests only read it."""
    folder = make_run(tmp_path_factory.mktemp("run") / "RUN", {"conv1": 4, "fc1": 60})
    return folder, write_report(folder).read_text()


def test_it_says_all_that_a_reader_needs(run):
    folder, text = run
    words = visible(text)
    for expected in (
        "lenet5 on mnist", "99.40 %", "99.21 %", "60.10 %", "2,293,000", "1,100,000", "431,080",
        "4.25 ms", "2.5 ms", "at most 50 % of the multiply-adds", "conv1", "fc1", "2 of 4",
        "it is the network's output", "Seed: 7", "2.15.0", "temperature 0.01", "svi 12.5",
        "conditional on the trained weights", "trained on the same images",
        f'dirprune.load("{folder / "pruned"}")',
        f'torch.export.load("{folder / "pruned.pt2"}").module()',
        'decide(tree, evidence("removal-cost", None, tree), macs=0.3)',
        "joint k-hat", "R-hat", "overlap by", "log predictive density is", "k-hat < 0.7, or",
        "leave-one-out needs temperature 1", "(Vehtari et al. 2024, JMLR", "mean confidence",
        "Do the restarts draw the same", "Sensitivity to prior and likelihood",
        "55,000 train",
    ):  # fmt: skip
        assert expected in words, expected
    assert "No layer had to be left alone" not in words
    assert "Warnings" not in words
    assert "What the budget max_drop found" not in words
    assert "What made up for the cut" not in words
    assert "Round by round" not in words


def test_every_site_has_its_rows(run):
    _, text = run
    for row in ("conv1", "fc1"):
        assert text.count(f'<th scope="row">{row}</th>') >= 3  # widths, kept units, numbers


def test_it_opens_offline(run):
    _, text = run
    page = Parser(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name == "src":
            assert tag == "img"
            assert value.startswith("data:image/png;base64,")
        if name == "href":
            assert value.startswith("#")
            assert ("id", value[1:]) in [(n, v) for _, n, v in page.attributes]
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "url(" not in text
    assert "@import" not in text


def test_pictures_are_files_too_and_all_are_shown(run):
    folder, text = run
    names = {p.name for p in (folder / "figures").iterdir()}
    assert names == {
        "comparison.png", "widths.png", "inclusion.png", "switches-00.png", "switches-01.png",
        "evidence.png", "ranks.png", "elbo.png", "training.png",
        "reliability.png", "restarts.png", "sensitivity.png",
    }  # fmt: skip
    page = Parser(text)
    assert page.tags.count("img") == len(names)
    assert all(v for tag, name, v in page.attributes if (tag, name) == ("img", "alt"))


def test_the_least_certain_decisions_come_first(run):
    _, text = run
    table = text[text.index('<section id="uncertain">') :]
    table = table[: table.index("</table>")]
    shown = [float(p) for p in re.findall(r'<td class="number">(0\.\d\d)</td>', table)]
    decisions = re.findall(r'<td class="(kept|removed)">', table)
    assert len(shown) == len(decisions) == 4 + 8  # all of conv1, at most 8 of a site
    margins = [p - 0.5 if d == "kept" else 0.5 - p for p, d in zip(shown, decisions, strict=True)]
    assert margins == pytest.approx(sorted(margins), abs=0.011)


def test_names_are_escaped(tmp_path):
    folder = make_run(
        tmp_path / f"run{EVIL.replace('/', '-')}",
        {"a<script>alert(2)": 3},  # a slash is no part of a name in a DataTree
        network=EVIL,
        data=EVIL,
        warnings=[EVIL, "watch out"],
        unprunable={EVIL: EVIL},
        settings={EVIL: EVIL},
        versions={EVIL: EVIL},
        seconds={EVIL: 1.0},
        budget={EVIL: EVIL},
        evidence=EVIL,
        diagnostics={EVIL: {"text": EVIL, "good": None, "threshold": EVIL, "source": EVIL}},
    )
    text = write_report(folder).read_text()
    assert "<script" not in text
    assert "alert(1)" in text
    assert "watch out" in text
    assert "script" not in Parser(text).tags


def test_many_sites_say_how_many_are_shown(tmp_path):
    sizes = {f"layer{i}": 3 for i in range(14)}
    folder = make_run(tmp_path, sizes)
    text = write_report(folder).read_text()
    assert "12 of 14 sites have a picture here" in visible(text)
    assert len(list((folder / "figures").glob("switches-*.png"))) == 12
    for site in sizes:
        assert text.count(f'<th scope="row">{site}</th>') >= 3
    Parser(text)


def test_without_probabilities_finetuning_latency_and_diagnostics(tmp_path):
    folder = make_run(
        tmp_path,
        {"conv1": 4},
        probability=False,
        evidence="concentration",
        accuracy={"original": 99.4, "pruned": 60.1, "finetuned": None},
        latency_ms=None,
        diagnostics={},
        unprunable={},
    )
    (folder / "history.json").write_text('{"svi": [[]]}')
    (folder / "figures").mkdir()
    (folder / "figures" / "old.png").write_bytes(b"")
    words = visible(write_report(folder).read_text())
    assert "to 60.10 % after pruning, without fine-tuning" in words
    assert "no decision has a probability" in words
    assert "No diagnostics were computed" in words
    assert "No layer had to be left alone" in words
    assert "Latency" not in words
    assert not {"old.png", "elbo.png", "training.png", "inclusion.png"} & {
        p.name for p in (folder / "figures").iterdir()
    }


def test_the_same_run_gives_the_same_report(run, tmp_path):
    folder, text = run
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.is_file()}
    assert write_report(folder).read_text() == text
    assert set(before) == {p.name for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("name", ["metrics.json", "decision.json", "history.json", "posterior.nc"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b'{"a": 1}'])
def test_a_missing_or_damaged_file_is_named(run, tmp_path, name, content):
    folder = tmp_path / "RUN"
    shutil.copytree(run[0], folder)
    (folder / "report.html").unlink()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(DirpruneError, match=re.escape(name)) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value).strip()
    assert not (folder / "report.html").exists()


def test_no_folder():
    with pytest.raises(DirpruneError, match="no such folder"):
        write_report("/nowhere/at/all")


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": [{"name": "conv1", "units": 5, "kept": 2}]},
        {"sites": [{"name": "other", "units": 4, "kept": 2}]},
        {"sites": ["conv1"]},
        {"sites": [{"name": "conv1", "units": 4, "kept": 2}]},  # no producers
        {"macs": {"before": 1}},
        {"accuracy": {"original": "high"}},
        {"seconds": {"svi": "long"}},
        {"posterior": "mine"},
    ],
)
def test_metrics_that_do_not_fit_are_refused(run, tmp_path, changes):
    folder = tmp_path / "RUN"
    shutil.copytree(run[0], folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    with pytest.raises(DirpruneError, match="metrics"):
        write_report(folder)


def test_a_posterior_of_another_run_is_refused(run, tmp_path):
    folder = tmp_path / "RUN"
    shutil.copytree(run[0], folder)
    # The same sites and as many units: a run of another seed, or at another time.
    for changes in ({"seed": 8}, {"created_at": "2026-01-01T00:00:01+00:00"}):
        tree = load_tree(run[0] / "posterior.nc")
        tree.attrs |= changes
        save_tree(tree, folder / "posterior.nc")
        with pytest.raises(DirpruneError, match=r"posterior\.nc is of another run") as caught:
            write_report(folder)
        assert f"{next(iter(changes.values()))}" in str(caught.value)
        assert "tells of one with created_at 2026-01-01T00:00:00+00:00, seed 7" in str(caught.value)


def test_a_guide_without_concentrations_has_no_column_of_them(run, tmp_path):
    assert "Concentrations and switches" in run[1]
    folder = make_run(tmp_path, {"conv1": 4})
    tree = load_tree(folder / "posterior.nc").drop_nodes(["concentration"])
    save_tree(tree, folder / "posterior.nc")
    words = visible(write_report(folder).read_text())
    assert "oncentration" not in words
    assert "Parameters of the prior" not in words


def test_a_hierarchical_prior_and_correlated_units_have_tables(tmp_path):
    sizes = {"conv1": 4, "fc1": 6}
    folder = make_run(tmp_path, sizes)
    tree = load_tree(folder / "posterior.nc")
    draws = tree["posterior"].to_dataset()
    draws["fc1"][..., 2] = draws["conv1"][..., 1]
    draws["conv1_concentration"] = draws["conv1"].sum("conv1_unit")  # 1 everywhere
    tree["posterior"] = xr.DataTree(draws)
    tree.attrs["sites"] = json.dumps({name: [[], []] for name in sizes})
    save_tree(tree, folder / "posterior.nc")
    text = write_report(folder).read_text()
    Parser(text)
    words = visible(text)
    assert "Parameters of the prior" in words
    assert "conv1_concentration 1 1 (1 to 1)" in words
    assert "conv1 1 fc1 2 +1.00" in words
    assert "Prior and hyper-prior are scaled together" in words


def test_compensation_is_told_layer_by_layer(tmp_path):
    layers = {f"layer{i}": {"before": 1 / 3, "after": 0.04 + i} for i in range(13)}
    compensation = {
        "least-squares:images=500": {"layers": layers, "left_alone": {EVIL: EVIL}},
        "recalibrate": {
            "layers": {"bn1": {"variance_before": 2.0, "variance_after": 1.25}},
            "left_alone": {},
        },
        "fold-gains": {"layers": {}, "left_alone": {}},
    }
    folder = make_run(
        tmp_path,
        {"conv1": 4},
        compensation=compensation,
        accuracy={"original": 99.4, "pruned": 60.1, "compensated": 90.5, "finetuned": None},
    )
    text = render(read_run(folder), [])
    page = Parser(text)
    assert "script" not in page.tags
    assert ("a", "href", "#compensation") in page.attributes
    words = visible(text)
    for expected in (
        "pruned and compensated by least-squares:images=500 and recalibrate and fold-gains 90.50 %",
        "All 13 layers Layer before after layer0 0.333 0.04",
        "layer12 0.333 12 ",
        f"Layer left alone why {EVIL} {EVIL}",
        "Layer variance before variance after bn1 2 1.25",
        "It found nothing to change in this network",
    ):
        assert expected in words, expected


def test_compensation_that_found_nothing_promises_no_accuracy(tmp_path):
    nothing = {"recalibrate": {"layers": {}, "left_alone": {}}}
    words = visible(render(read_run(make_run(tmp_path, {"conv1": 4}, compensation=nothing)), []))
    assert "Without training, and in this order. recalibrate It found nothing to change" in words


def test_rounds_are_told_one_by_one(tmp_path):
    rounds = [
        {"budget": {"macs": 0.75}, "units": {"conv1": 3, "fc1": 1200}, "seconds": 2.25},
        {"budget": {"macs": 0.5}, "units": {"conv1": 2, "fc1": 900}, "seconds": 1.0},
    ]
    folder = make_run(tmp_path, {"conv1": 4}, rounds=rounds)
    words = visible(render(read_run(folder), []))
    assert "Units went in 2 rounds" in words
    assert "1 75.0 % of the multiply-adds 1,203 conv1 3, fc1 1,200 2.2 2 50.0 %" in words
    assert "902 conv1 2, fc1 900 1.0" in words
    many = [{"budget": {}, "units": {f"layer{i}": 2 for i in range(9)}, "seconds": 1.0}]
    text = render(read_run(make_run(tmp_path, {"conv1": 4}, rounds=many)), [])
    Parser(text)
    assert "1 the widths 18 1.0" in visible(text)


def test_what_max_drop_found(tmp_path):
    found = {
        "macs": 0.31, "loss_choosing": 2.5, "loss_confirming": 1.25, "images_choosing": 1200,
        "images_confirming": 1201, "confirmations": 3, "loss_upper": 4.125, "level": 0.05,
    }  # fmt: skip
    folder = make_run(tmp_path, {"conv1": 4}, budget={"max_drop": 2.5}, max_drop=found)
    words = visible(render(read_run(folder), []))
    for expected in (
        "What the budget max_drop found", "at most 2.5 points of accuracy on either half",
        "after it had refused 2 smaller ones", "at 31.0 % of the multiply-adds",
        "that chose 1,200 2.50", "that confirmed 1,201 1.25",
        "with 95 % confidence at most 4.12 points are lost on images of the kind",
    ):  # fmt: skip
        assert expected in words, expected
    assert "The prediction above" not in words
    found["confirmations"] = 1
    folder = make_run(tmp_path, {"conv1": 4}, budget={"max_drop": 2.5}, max_drop=found)
    assert "refused" not in visible(render(read_run(folder), []))


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"


def test_diagnostics_stand_in_one_order_with_their_verdicts(run):
    _, text = run
    words = visible(text[text.index('<section id="diagnostics">') :])
    names = [
        "Expected log predictive density for information", "Reliability of predicted probabilities",
        "Convergence of SVI", "Agreement of restarts", "Importance weights (k-hat)",
        "Sensitivity to prior and likelihood", "Overlap of prior and posterior",
        "Leave-one-out (in-sample) not computed",
    ]  # fmt: skip
    places = [words.index(name) for name in names]
    assert places == sorted(places)


def test_one_restart_and_nothing_held_out_have_no_such_pictures(tmp_path):
    folder = make_run(tmp_path, {"conv1": 4})
    tree = (
        load_tree(folder / "posterior.nc").isel(chain=[0]).drop_nodes(["validation", "log_prior"])
    )
    (folder / "posterior.nc").unlink()
    save_tree(tree, folder / "posterior.nc")
    words = visible(write_report(folder).read_text())
    pictures = {p.name for p in (folder / "figures").iterdir()}
    assert not {"reliability.png", "restarts.png", "sensitivity.png"} & pictures
    assert "Do the restarts draw the same" not in words
