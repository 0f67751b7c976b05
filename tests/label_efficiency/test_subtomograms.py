"""The simulator over synthetic densities: rotation, placement, transfer, wedge, noise."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.label_efficiency import subtomograms
from benchmarks.label_efficiency.rotations import uniform_rotations
from benchmarks.label_efficiency.subtomograms import Imaging

AXES = (-3, -2, -1)


def blob(size, center, width):
    axes = [torch.arange(size) - (size - 1) / 2 for _ in range(3)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    distance = (x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2
    return torch.exp(-distance / (2 * width**2))


@pytest.fixture(scope="module")
def densities():
    """Two molecules without symmetry, in cubes of different sizes."""
    first = blob(40, (0, 0, 0), 3) + blob(40, (6, 0, 0), 2) + 0.7 * blob(40, (0, 4, 3), 2)
    return [first, blob(46, (0, 0, 0), 2) + blob(46, (0, -3, 4), 1.5)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def spectrum(volumes):
    return torch.fft.fftn(volumes.double(), dim=AXES).abs()


@pytest.mark.slow
@pytest.mark.parametrize(
    "snr, neighbours", [(0.5, False), (0.1, False), (0.05, False), (0.1, True)]
)
def test_signal_to_noise_ratio(densities, generator, snr, neighbours):
    # Two noisy copies of a signal correlate by c; SNR = 2c / (1 - c), within a tenth.
    imaging = Imaging(snr=snr, neighbours=neighbours)
    classes = torch.arange(96) % 2
    seen = subtomograms.specimens(densities, classes, imaging, generator)
    signal = subtomograms.project(seen, imaging)
    copies = [subtomograms.add_noise(signal, imaging, generator) for _ in range(2)]
    first, second = (copy.flatten(1) - copy.flatten(1).mean(1, keepdim=True) for copy in copies)
    c = float(torch.cosine_similarity(first, second).mean())
    assert 2 * c / (1 - c) == pytest.approx(snr, rel=0.1)


@pytest.mark.slow
def test_half_of_the_noise_is_from_before_the_transfer_function(densities, generator):
    # Where the transfer function lets nothing through, only the later half is left.
    imaging = Imaging(snr=0.1)
    zeros = torch.zeros(64, dtype=torch.int64)
    seen = subtomograms.specimens(densities, zeros, imaging, generator)
    signal = subtomograms.project(seen, imaging)
    noise = subtomograms.add_noise(signal, imaging, generator) - signal
    noise = noise / signal.std(AXES, keepdim=True)
    power = spectrum(noise).square().mean((0, 1)) / 32**3
    transfer, seen = subtomograms.transfer(imaging), subtomograms.wedge(imaging) == 1
    after = power[seen & (transfer.abs() < 0.02)].mean() * seen.double().mean()
    assert float(after) == pytest.approx(1 / 0.1, rel=0.05)
    assert float(power.mean()) == pytest.approx(2 / 0.1, rel=0.05)


def test_no_noise_without_limit(densities, generator):
    imaging = Imaging(snr=math.inf)
    signal = torch.randn(2, 1, 32, 32, 32)
    assert subtomograms.add_noise(signal, imaging, generator) is signal


def test_wedge_is_empty(densities, generator):
    imaging = Imaging(snr=0.1)
    volumes = subtomograms.simulate(densities, torch.tensor([0, 1, 0]), imaging, generator)
    f = torch.fft.fftfreq(32)
    z, x = f[:, None, None].abs(), f[None, None, :].abs()
    # Tilted by at most 60 degrees about y, beams see nothing within 30 degrees of the z axis.
    empty = (torch.atan2(z, x) > math.radians(60.01)).expand(32, 32, 32)
    full = (torch.atan2(z, x) < math.radians(59.99)).expand(32, 32, 32)
    power = spectrum(volumes)[:, 0]
    assert float(empty.double().mean()) > 0.2
    assert float(power[:, empty].max()) < 1e-4 * float(power[:, full].mean())
    power[:, 0, 0, 0] = 1  # the mean, taken away on purpose
    assert float(power[:, full].min()) > 0


def test_full_tilt_leaves_no_wedge():
    assert subtomograms.wedge(Imaging(snr=1, tilt=90)).min() == 1


def test_normalised_and_repeatable(densities):
    classes = torch.tensor([0, 1, 1])
    runs = [
        subtomograms.simulate(
            densities, classes, Imaging(snr=0.5), torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert runs[0].shape == (3, 1, 32, 32, 32)
    torch.testing.assert_close(runs[0].mean(AXES), torch.zeros(3, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(runs[0].std(AXES), torch.ones(3, 1))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_transfer_function_by_hand():
    # 300 kV: 0.0196875 Å. At 1/80 cycles per Å along one axis:
    # phase = pi * 0.0196875 * 5e4 * (1/80)^2 - pi/2 * 2e7 * 0.0196875^3 * (1/80)^4 = 0.483194.
    imaging = Imaging(snr=1)
    found = subtomograms.transfer(imaging)
    k = 4  # of 32 voxels of 10 Å
    envelope = math.exp(-((1 / 80) ** 2) / (2 * (0.4 / 20) ** 2))
    assert float(found[0, k, 0]) == pytest.approx(math.sin(0.483194) * envelope, rel=1e-4)
    assert float(found[0, 0, 0]) == 0
    assert torch.equal(found, found.permute(2, 0, 1))


def test_rotations_are_uniform(generator):
    n = 20_000
    turns = uniform_rotations(n, generator)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(turns @ turns.mT, eye.expand(n, 3, 3))
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(n, dtype=torch.float64))
    # Haar moments: E R = 0, E R_ij R_kl = delta_ik delta_jl / 3, E (R_ij)^4 = 1/5.
    flat = turns.flatten(1)
    assert float(flat.mean(0).abs().max()) < 4 * math.sqrt(1 / 3 / n)
    torch.testing.assert_close(
        flat.T @ flat / n, torch.eye(9, dtype=torch.float64) / 3, atol=0.015, rtol=0
    )
    torch.testing.assert_close(
        flat.pow(4).mean(0), torch.full((9,), 0.2, dtype=torch.float64), atol=0.01, rtol=0
    )
    # The angle has density (1 - cos a) / pi, which naive Euler angles miss.
    angle = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).arccos().sort().values
    expected = (angle - angle.sin()) / torch.pi
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert float((steps - expected).abs().max()) < 1.63 / math.sqrt(n)  # Kolmogorov, 1 %


def test_placement_turns_then_shifts():
    # A quarter turn about z takes a blob from x = 6 to y = 6; then it is moved.
    quarter = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]]).double()
    shift = torch.tensor([[4.0, 0.0, -2.0]])
    one = torch.zeros(1, dtype=torch.int64)
    found = subtomograms.place([blob(41, (6, 0, 0), 2)], one, quarter, shift, 32)[0, 0]
    torch.testing.assert_close(
        found, blob(32, (4, 6, -2), 2), atol=0.1, rtol=0
    )  # of linear interpolation
    center = [(found.sum((1, 2)), "z"), (found.sum((0, 2)), "y"), (found.sum((0, 1)), "x")]
    position = torch.arange(32) - 15.5
    where = {axis: float((mass * position).sum() / mass.sum()) for mass, axis in center}
    assert where == pytest.approx({"x": 4, "y": 6, "z": -2}, abs=0.01)


@pytest.mark.slow
def test_neighbours_surround_without_covering(densities, generator):
    alone = Imaging(snr=1, shift=0.0)
    classes = torch.zeros(16, dtype=torch.int64)
    without = subtomograms.specimens(densities, classes, alone, generator)
    around = subtomograms.specimens(
        densities,
        classes,
        replace(alone, neighbours=True),
        torch.Generator().manual_seed(0),
    )
    added = around - without
    assert float(added.amin()) > -1e-6
    assert bool((added.sum(AXES) > 0).all())
    # What is added stays out of the molecule's core.
    core = slice(13, 19)
    assert float(added[..., core, core, core].amax()) < 0.1 * float(without.amax())


def test_radius_of_a_shell():
    axes = [torch.arange(41) - 20.0 for _ in range(3)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    ball = ((x**2 + y**2 + z**2).sqrt() <= 10).float()
    # 95 % of a ball's volume lie within 0.95^(1/3) of its radius.
    assert subtomograms.radius(ball) == pytest.approx(10 * 0.95 ** (1 / 3), abs=0.2)
