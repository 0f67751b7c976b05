"""What confirms the default: features that no label has a part in, and seeds of their own."""

from dataclasses import replace

import pytest
import torch

from benchmarks.label_efficiency import bands, cifar_fixed, curves, regimes, tasks
from benchmarks.label_efficiency.curves import Curve, Results
from benchmarks.label_efficiency.runner import (
    Settings,
    of_confirmation,
    of_full_model,
    run_task,
)
from benchmarks.provenance import RESULTS


def test_features_are_those_of_the_paper(monkeypatch):
    """Against a loop over positions and centres, written from the paper's formula."""
    monkeypatch.setattr(cifar_fixed, "PATCH", 2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 5, 5), generator=generator, dtype=torch.uint8)
    mean, whiten, centres = (
        torch.randn(shape, generator=generator) for shape in [(12,), (12, 12), (4, 12)]
    )
    found = cifar_fixed._quadrants(images, mean, whiten, centres).double()
    for image, features in zip(images, found, strict=True):
        quadrants = torch.zeros(4, 2, 2, dtype=torch.float64)
        for top in range(4):
            for left in range(4):
                patch = image[:, top : top + 2, left : left + 2].double().flatten()
                patch = (patch - patch.mean()) / (patch.var() + 10).sqrt()
                white = (patch - mean.double()) @ whiten.double()
                distances = torch.stack([(white - c.double()).norm() for c in centres])
                quadrants[:, top // 2, left // 2] += (distances.mean() - distances).clamp(min=0)
        torch.testing.assert_close(features, quadrants.flatten(), rtol=1e-4, atol=1e-4)


def test_features_are_the_same_twice_and_read_no_label(monkeypatch):
    monkeypatch.setattr(cifar_fixed, "CENTRES", 5)
    images = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8)
    first = cifar_fixed.describe(images, images[:2])
    assert first.shape == (2, 20)
    assert torch.equal(first, cifar_fixed.describe(images, images[:2]))


@pytest.mark.slow
def test_confirmation_has_seeds_of_its_own(tmp_path):
    settings = Settings(
        root=tmp_path, seeds=1, strategies=("random",), workers=0, quick=True,
        runs=tmp_path / "runs", progress=False,
    )  # fmt: skip
    fresh = of_confirmation(settings, "digits")
    found = run_task("digits", fresh).results
    assert [curve.seed for curve in found.curves] == [tasks.FIRST_CONFIRMED]
    assert fresh.results.name == "confirmation" != fresh.runs.parent.name
    # What was fixed later is a family of its own, which no look at the first has a part in.
    for name in ("harder", *tasks.HARDER):
        assert of_confirmation(settings, name).results.name == "harder"


def test_what_is_corrected_was_fixed_beforehand():
    assert {*regimes.PLANNED, regimes.DEFAULT} < set(tasks.CONFIRMED)
    assert not set(tasks.CONFIRMING) & set(tasks.HARDER)
    assert not {*tasks.CONFIRMING, *tasks.HARDER} & {
        "digits",
        "digits_paper",
        "segments",
        "segments_paper",
    }


@pytest.mark.slow
def test_full_models_are_kept_apart_with_a_family_of_their_own(tmp_path):
    settings = Settings(root=tmp_path, runs=tmp_path / "runs")
    few, many = of_full_model(settings, "digits"), of_full_model(settings, "digits_paper")
    assert (few.seeds, many.seeds, few.first_seed) == (16, 8, tasks.FIRST_CONFIRMED)
    assert few.results.name == few.runs.name == regimes.FULL_MODEL
    assert of_full_model(replace(settings, seeds=2, strategies=("random",)), "digits").seeds == 2
    stored = RESULTS / regimes.FULL_MODEL
    lines = [line for line in regimes.tables(stored).splitlines() if line.startswith("| `")]
    others = [line for line in lines if "(default)" not in line]
    assert len(lines) == 4 * len(tasks.FULL_MODEL)
    assert len(others) == 28
    assert not any(line.endswith("- |") for line in others)  # each is corrected for


@pytest.mark.slow
def test_pictures_of_what_is_told(tmp_path):
    pytest.importorskip("matplotlib")
    seconds = dict.fromkeys(("train", "score", "select", "evaluate"), 1.0)
    rows = [
        Curve(name, seed, (10, 20), {"accuracy": (0.5, 0.6 + seed / 50)}, seconds, "s", "")
        for name in ("random", regimes.DEFAULT, "margin")
        for seed in range(tasks.FIRST_CONFIRMED, tasks.FIRST_CONFIRMED + 5)
    ]
    folder = tmp_path / "confirmation"
    curves.store(Results("toy", {}, tuple(rows)), folder)
    curves.store(Results("few", {}, tuple(rows[:1] + rows[5:6])), folder)  # too few seeds
    (place,) = bands.draw_all(tmp_path, tmp_path / "pictures")
    assert place.name == "toy.png"
    assert place.stat().st_size > 3000
