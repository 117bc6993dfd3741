"""The fused kernels against torch, and life without them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from geometry import smooth_displacement
from torch import Tensor

import RecurrentRegistrationLib
from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation

numba = pytest.importorskip("numba", reason="the kernels need numba (extra `fast`)")
SHAPES = [(5, 8, 6), (1, 7, 9), (12, 3, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
paddings = pytest.mark.parametrize("padding", ["zeros", "border"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def restless(batch: int, shape: tuple[int, ...]) -> Tensor:
    """Displacements that leave the grid on every side and hit no voxel's centre."""
    return 6 * random(batch, 3, *shape, seed=7) - 3


@pytest.fixture
def by_torch(monkeypatch):
    """Call a function without the kernels."""

    def call(function, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(volumes, "_usable", False)
            return function(*arguments, **options)

    return call


class TestWarp:
    @shapes
    @paddings
    @pytest.mark.parametrize("extra", [0, 2, -1])
    def test_values_and_derivatives_are_torchs(self, shape, padding, extra, by_torch):
        size = [max(1, n + extra) for n in shape]
        image, displacement = random(2, 3, *size), restless(2, shape)
        weights = random(2, 3, *shape, seed=2)

        def values_and_gradients():
            i, u = image.clone().requires_grad_(), displacement.clone().requires_grad_()
            values = spatial.warp(i, u, padding=padding)
            return values.detach(), *torch.autograd.grad((values * weights).sum(), (i, u))

        assert volumes.can_warp(image, displacement)
        for found, expected in zip(values_and_gradients(), by_torch(values_and_gradients), strict=True):
            assert torch.allclose(found, expected, atol=2e-5)

    @shapes
    @paddings
    def test_derivatives_at_the_voxels_themselves(self, shape, padding):
        # Forward differences; with the border repeated, nothing moves what lies on the outermost voxels.
        image = random(1, 1, *shape)
        displacement = torch.zeros(1, 3, *shape, requires_grad=True)
        (found,) = torch.autograd.grad(spatial.warp(image, displacement, padding=padding).sum(), displacement)
        for axis, n in enumerate(shape):
            beyond = F.pad(image[0, 0].movedim(axis, -1), [0, 1])
            expected = beyond.diff(dim=-1)
            if padding == "border":
                expected[..., [0, n - 1]] = 0
            assert torch.allclose(found[0, axis].movedim(axis, -1), expected, atol=1e-6)

    def test_second_derivatives_are_torchs(self, by_torch):
        image, displacement = random(1, 2, 4, 5, 3), restless(1, (4, 5, 3))

        def curvature():
            i, u = image.clone().requires_grad_(), displacement.clone().requires_grad_()
            (slope,) = torch.autograd.grad(spatial.warp(i, u).square().sum(), u, create_graph=True)
            return torch.autograd.grad(slope.square().sum(), (i, u))

        for found, expected in zip(curvature(), by_torch(curvature), strict=True):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_views_and_expanded_tensors_are_read_right(self, by_torch):
        image = random(1, 6, 7, 5, 2).movedim(-1, 1).expand(3, 2, 6, 7, 5)
        displacement = restless(3, (7, 6, 5)).transpose(2, 3)
        assert torch.allclose(spatial.warp(image, displacement), by_torch(spatial.warp, image, displacement), atol=1e-5)

    def test_other_tensors_are_left_to_torch(self):
        volume = random(1, 1, 3, 3, 3)
        field = random(1, 3, 3, 3, 3)
        assert volumes.can_warp(volume, field)
        assert not volumes.can_warp(volume.double(), field.double())
        assert not volumes.can_warp(volume[..., 0], field[:, :2, ..., 0])
        assert not volumes.can_warp(volume.to("meta"), field.to("meta"))


class TestJacobian:
    @pytest.mark.parametrize("shape", [(5, 8, 6), (2, 2, 2), (1, 7, 9)], ids=str)
    def test_is_torchs(self, shape, by_torch):
        displacement = restless(2, shape)
        found = spatial.jacobian_determinant(displacement)
        assert torch.allclose(found, by_torch(spatial.jacobian_determinant, displacement), rtol=1e-4, atol=1e-4)

    def test_leaves_derivatives_to_torch(self):
        displacement = restless(1, (4, 4, 4)).requires_grad_()
        assert not volumes.can_differentiate(displacement)
        spatial.jacobian_determinant(displacement).sum().backward()
        assert displacement.grad.abs().max() > 0


def naive_correlation(fixed: Tensor, warped: Tensor, weight: Tensor, radius: int, epsilon: float, squared: bool):
    """One minus the weighted mean of local correlations, every window cut out and counted by itself."""
    losses = []
    for f, m, w in zip(fixed[:, 0], warped[:, 0], weight[:, 0], strict=True):
        pad = [radius] * 6
        windows = [F.pad(t, pad).unfold(0, 2 * radius + 1, 1).unfold(1, 2 * radius + 1, 1) for t in (f, m, w)]
        windows = [t.unfold(2, 2 * radius + 1, 1).flatten(3) for t in windows]
        wf, wm, ww = windows
        mass = ww.sum(-1, keepdim=True).clamp_min(1e-6)
        df = wf - (ww * wf).sum(-1, keepdim=True) / mass
        dm = wm - (ww * wm).sum(-1, keepdim=True) / mass
        covariance = (ww * df * dm).sum(-1) / mass[..., 0] + epsilon
        product = ((ww * df**2).sum(-1) / mass[..., 0] + epsilon) * ((ww * dm**2).sum(-1) / mass[..., 0] + epsilon)
        correlation = covariance**2 / product if squared else covariance / product.sqrt()
        losses.append(1 - (w * correlation).sum() / w.sum())
    return torch.stack(losses).mean()


class TestLocalCorrelation:
    @shapes
    @pytest.mark.parametrize("radius", [1, 2, 4])
    @pytest.mark.parametrize("squared", [True, False])
    def test_value_and_derivative_are_those_of_single_windows(self, shape, radius, squared):
        fixed, warped = random(2, 1, *shape), random(2, 1, *shape, seed=1)
        warped = 0.5 * fixed + 0.5 * warped
        weight = (random(2, 1, *shape, seed=2) > 0.3) * random(2, 1, *shape, seed=3)
        warped.requires_grad_()
        loss = LocalCorrelation(radius, squared=squared, epsilon=1e-3)(fixed, warped, weight)
        (slope,) = torch.autograd.grad(loss, warped)
        exact = warped.detach().double().requires_grad_()
        expected = naive_correlation(fixed.double(), exact, weight.double(), radius, 1e-3, squared)
        (expected_slope,) = torch.autograd.grad(expected, exact)
        assert volumes.can_correlate(fixed, warped)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        assert torch.allclose(slope.double(), expected_slope, atol=2e-3 * expected_slope.abs().max())

    @shapes
    @pytest.mark.parametrize("squared", [True, False])
    def test_without_a_weight_it_is_torchs(self, shape, squared, by_torch):
        fixed, warped = random(2, 1, *shape), random(2, 1, *shape, seed=1)
        loss = LocalCorrelation(2, squared=squared)
        assert loss(fixed, warped).item() == pytest.approx(by_torch(loss, fixed, warped).item(), abs=1e-4)

    def test_equal_images_correlate_fully(self):
        image = random(1, 1, 7, 8, 9)
        assert LocalCorrelation(2)(image, 3 * image + 1).item() == pytest.approx(0, abs=1e-3)
        assert LocalCorrelation(2, squared=False)(image, 1 - image).item() == pytest.approx(2, abs=1e-3)

    @pytest.mark.parametrize("squared", [True, False])
    def test_constant_images_and_empty_weights_give_numbers(self, squared):
        warped = torch.full((1, 1, 6, 6, 6), 0.3, requires_grad=True)
        for weight in (None, torch.zeros(1, 1, 6, 6, 6)):
            loss = LocalCorrelation(2, squared=squared)(random(1, 1, 6, 6, 6), warped, weight)
            (slope,) = torch.autograd.grad(loss, warped)
            assert loss.item() == pytest.approx(1, abs=2e-2)
            assert slope.isfinite().all()

    def test_threads_do_not_change_the_result(self, monkeypatch):
        fixed, warped = random(1, 1, 11, 8, 9), random(1, 1, 11, 8, 9, seed=1)
        results = []
        for count in (1, 2):
            monkeypatch.setattr(volumes, "threads", lambda count=count: min(count, numba.config.NUMBA_NUM_THREADS))
            results.append(volumes.local_correlation(fixed, warped, torch.ones_like(fixed), 2, 1e-5, True))
        for one, two in zip(*results, strict=True):
            assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


class TestWithout:
    def load(self, monkeypatch) -> object:
        """The kernels' module as a fresh import sees it."""
        spec = importlib.util.spec_from_file_location("fresh_kernels", volumes.__file__)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "fresh_kernels", module)
        spec.loader.exec_module(module)
        return module

    def test_the_environment_switches_them_off(self, monkeypatch):
        monkeypatch.setenv("RECURRENT_REGISTRATION_KERNELS", "0")
        assert not self.load(monkeypatch).can_warp(random(1, 1, 2, 2, 2), random(1, 3, 2, 2, 2))
        monkeypatch.delenv("RECURRENT_REGISTRATION_KERNELS")
        assert self.load(monkeypatch).can_warp(random(1, 1, 2, 2, 2), random(1, 3, 2, 2, 2))

    def test_numba_may_be_absent(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "numba", None)
        module = self.load(monkeypatch)
        volume = random(1, 1, 2, 2, 2)
        assert not module.can_warp(volume, volume.expand(1, 3, 2, 2, 2))
        assert not module.can_correlate(volume, volume)

    def test_a_forked_process_does_without(self, monkeypatch):
        monkeypatch.setattr(volumes, "_usable", True)
        volumes._forget()
        assert not volumes.is_volume(random(1, 1, 2, 2, 2))

    def test_a_whole_step_is_the_same(self, by_torch):
        shape = (9, 8, 7)
        fixed, moving = random(1, 1, *shape), random(1, 1, *shape, seed=4)

        def descend():
            displacement = smooth_displacement(shape, 0.4).requires_grad_()
            loss = LocalCorrelation(2)(fixed, spatial.warp(moving, displacement))
            (slope,) = torch.autograd.grad(loss, displacement)
            return spatial.compose(spatial.gaussian_smooth(-slope, 1.0), displacement.detach())

        assert np.allclose(descend(), by_torch(descend), atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_without_room_for_compiled_kernels(tmp_path):
    import resource

    program = (
        "import torch; from RecurrentRegistrationLib import spatial;"
        "from RecurrentRegistrationLib.kernels import volumes;"
        "u = torch.zeros(1, 3, 4, 5, 6); assert volumes.can_differentiate(u);"
        "assert (spatial.jacobian_determinant(u) == 1).all()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_number_of_threads_stays_as_asked():
    """OpenMP's pool, which a process starts once, would take torch along to all cores."""
    program = """
import torch
from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib import spatial
torch.set_num_threads(1)
image = torch.rand(1, 1, 8, 8, 8)
assert volumes.can_warp(image, image)
spatial.warp(image, image.expand(1, 3, 8, 8, 8).contiguous())
print(torch.get_num_threads())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "1\n"


@pytest.mark.parametrize("where", ["read-only", "archive"])
def test_a_package_and_a_home_that_cannot_be_written(where, tmp_path):
    """A container with a read-only root, or a package in an archive: kernels are compiled and not kept."""
    package = shutil.copytree(
        Path(RecurrentRegistrationLib.__file__).parent,
        tmp_path / "site" / "RecurrentRegistrationLib",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    place = package.parent
    if where == "archive":
        place = Path(shutil.make_archive(str(tmp_path / "packages"), "zip", package.parent))
    program = """
import pathlib, sys, tempfile
def refused(*arguments, **options):
    raise PermissionError(13, "Read-only file system")
import torch
tempfile.TemporaryFile = refused  # root may write anywhere, so that no mode of a folder refuses it
from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes
assert sys.argv[1] in volumes.__file__, volumes.__file__
image = torch.rand(1, 1, 4, 5, 6)
assert volumes.can_differentiate(image.expand(1, 3, 4, 5, 6))
print(spatial.jacobian_determinant(torch.zeros(1, 3, 4, 5, 6)).mean().item())
"""
    kept_back = ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONWARNDEFAULTENCODING")
    environment = {name: value for name, value in os.environ.items() if name not in kept_back}
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        env=environment | {"PYTHONPATH": str(place), "HOME": str(tmp_path / "no-home")},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.0\n", "")


def test_idle_threads_of_programs_sleep_unless_the_user_says_otherwise():
    code = """
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
before = dict(os.environ)
import RecurrentRegistrationLib.pipeline
assert dict(os.environ) == before
sys.argv = ["recurrent-registration", "--version"]
for given in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
    os.environ.update(given)
    sys.modules.pop("torch", None)
    sys.modules.pop("RecurrentRegistrationLib.__main__", None)
    from RecurrentRegistrationLib import __main__
    os._exit = lambda status: print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
    __main__.main()
    del os.environ["OMP_WAIT_POLICY"], __main__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split()[1::3] == ["PASSIVE", "ACTIVE"]
    assert done.stdout.split()[2::3] == ["False", "False"]
