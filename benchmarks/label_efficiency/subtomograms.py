r"""Subtomograms of known molecules, simulated.

A molecule's density, turned by a uniform rotation and shifted, with or without four packed
neighbours, is seen through the microscope: multiplied in Fourier space by the contrast transfer
function

.. math:: \sin\bigl(\pi \lambda \Delta f k^2 - \tfrac{\pi}{2} C_s \lambda^3 k^4\bigr)
          \, e^{-k^2 / 2 \sigma^2}

and by the missing wedge of a single-axis tilt series. Gaussian noise comes in before the transfer
function (the specimen) and after it (the detector), equally strong in the image. The ratio of
signal to noise follows the convention of the field for two noisy copies that correlate by c,
:math:`\mathrm{SNR} = 2c / (1 - c)` (Frank and Al-Ali, 1975): each half of the noise has the
signal's variance divided by SNR. The result has zero mean and unit variance.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.label_efficiency.rotations import uniform_rotations


@dataclass(frozen=True)
class Imaging:
    """Settings of the microscope and of the specimen.

    Attributes:
        snr: Signal-to-noise ratio, 2c / (1 - c); infinite for none.
        box: Voxels along an edge.
        voxel_size: In ångström.
        shift: Largest shift along each axis, as a share of the box.
        neighbours: Four other molecules around, at the corners of a turned tetrahedron.
        tilt: Largest tilt in degrees, either way; 90 leaves no wedge out.
        kilovolts: Acceleration voltage.
        aberration: Spherical aberration Cs in millimetres.
        defocus: In micrometres, positive for underfocus.
        envelope: Width σ of the Gaussian envelope as a share of the Nyquist frequency.
    """

    snr: float
    box: int = 32
    voxel_size: float = 10.0
    shift: float = 0.25
    neighbours: bool = False
    tilt: float = 60.0
    kilovolts: float = 300.0
    aberration: float = 2.0
    defocus: float = 5.0
    envelope: float = 0.4


def simulate(
    densities: list[Tensor], classes: Tensor, imaging: Imaging, generator: torch.Generator
) -> Tensor:
    """Subtomograms `[N, 1, box, box, box]` (z, y, x), float32, one for each class index.

    Args:
        densities: Cubes `[D, D, D]`, one a class, of the voxel size of `imaging`, centred.
        classes: Indices into `densities`, `[N]`.
        imaging: What they are seen through.
        generator: Of all random numbers; equal ones give equal bits.
    """
    signal = project(specimens(densities, classes, imaging, generator), imaging)
    noisy = add_noise(signal, imaging, generator)
    centred = noisy - noisy.mean((-3, -2, -1), keepdim=True)
    return centred / centred.std((-3, -2, -1), keepdim=True)


def specimens(
    densities: list[Tensor], classes: Tensor, imaging: Imaging, generator: torch.Generator
) -> Tensor:
    """Molecules in the box before imaging, `[N, 1, box, box, box]`."""
    n, box = len(classes), imaging.box
    moved = (2 * torch.rand(n, 3, generator=generator) - 1) * imaging.shift * box
    found = place(densities, classes, uniform_rotations(n, generator), moved, box)
    if not imaging.neighbours:
        return found
    radii = torch.tensor([radius(density) for density in densities])
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    directions = corners @ uniform_rotations(n, generator).float().mT  # [N, 4, 3]
    for corner in range(4):
        others = torch.randint(len(densities), (n,), generator=generator)
        away = (radii[classes] + radii[others])[:, None] * directions[:, corner]
        turns = uniform_rotations(n, generator)
        found = found + place(densities, others, turns, moved + away, box)
    return found


def radius(density: Tensor) -> float:
    """Of the sphere about the centre that holds 95 % of the density, in voxels."""
    axes = [torch.arange(size) - (size - 1) / 2 for size in density.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    distance, order = (z**2 + y**2 + x**2).sqrt().flatten().sort()
    held = density.clamp(min=0).flatten()[order].cumsum(0)
    return float(distance[int((held < 0.95 * held[-1]).sum())])


def place(
    densities: list[Tensor], classes: Tensor, rotations: Tensor, shifts: Tensor, box: int
) -> Tensor:
    """Each molecule turned, then shifted (voxels; x, y, z), in a box `[N, 1, box, box, box]`."""
    found = torch.empty(len(classes), 1, box, box, box)
    for label, density in enumerate(densities):
        mine = (classes == label).nonzero()[:, 0]
        if not len(mine):
            continue
        # Output position u (in half boxes) shows the density at R^T (u box - 2 shift) / size.
        turn = rotations[mine].float().mT
        offset = -(turn @ shifts[mine, :, None]) * 2 / density.shape[-1]
        matrix = torch.cat([turn * box / density.shape[-1], offset], 2)
        grid = F.affine_grid(matrix, [len(mine), 1, box, box, box], align_corners=False)
        stack = density.expand(len(mine), 1, *density.shape)
        found[mine] = F.grid_sample(stack, grid, align_corners=False)
    return found


def transfer(imaging: Imaging) -> Tensor:
    """The contrast transfer function on the grid of `torch.fft.fftn`, `[box, box, box]`."""
    # Relativistic wavelength of an electron, in ångström.
    volts = imaging.kilovolts * 1e3
    wavelength = 12.2643 / math.sqrt(volts + 0.97845e-6 * volts**2)
    k2 = sum(f**2 for f in _frequencies(imaging)) / imaging.voxel_size**2
    assert isinstance(k2, Tensor)
    phase = torch.pi * wavelength * imaging.defocus * 1e4 * k2
    phase = phase - torch.pi / 2 * imaging.aberration * 1e7 * wavelength**3 * k2**2
    sigma = imaging.envelope / (2 * imaging.voxel_size)
    return torch.sin(phase) * torch.exp(-k2 / (2 * sigma**2))


def wedge(imaging: Imaging) -> Tensor:
    """1 where a tilt series about y sees the Fourier coefficient, else 0; `[box, box, box]`."""
    z, _, x = _frequencies(imaging)
    seen = z.abs() <= x.abs() * math.tan(math.radians(imaging.tilt)) + 1e-9
    return (seen | (imaging.tilt >= 90)).expand(3 * (imaging.box,)).float()


def _frequencies(imaging: Imaging) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies along z, y and x in cycles a voxel, shaped to broadcast."""
    f = torch.fft.fftfreq(imaging.box)
    return f[:, None, None], f[None, :, None], f[None, None, :]


def project(volumes: Tensor, imaging: Imaging) -> Tensor:
    """The noise-free images of specimens `[N, 1, box, box, box]`."""
    return _filtered(volumes, transfer(imaging) * wedge(imaging))


def add_noise(signal: Tensor, imaging: Imaging, generator: torch.Generator) -> Tensor:
    """Images of `project` with noise from before and after the transfer function."""
    if math.isinf(imaging.snr):
        return signal
    seen = wedge(imaging)
    variance = signal.var((-3, -2, -1), keepdim=True) / imaging.snr
    noisy = signal
    for filters in (transfer(imaging) * seen, seen):
        white = torch.randn(signal.shape, generator=generator)
        # White noise of variance v leaves a filter with variance v times its mean square.
        noisy = noisy + _filtered(white, filters) * (variance / filters.square().mean()).sqrt()
    return noisy


def _filtered(volumes: Tensor, filters: Tensor) -> Tensor:
    axes = (-3, -2, -1)
    half = filters[..., : filters.shape[-1] // 2 + 1]  # both filters are even: real stays real
    return torch.fft.irfftn(torch.fft.rfftn(volumes, dim=axes) * half, volumes.shape[-3:], axes)
