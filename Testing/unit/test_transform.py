"""Transforms against SimpleITK, to 1e-3 mm, on every awkward grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometry import GRIDS, file_holds, placed, random_points, smooth_field, smooth_image, voxel_centres, wave

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.transform import Affine, BSpline, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample

MILLIMETRES = 1e-3


def small_affine(grid: Grid) -> Affine:
    """A shear, a scaling and a shift about the middle of a grid."""
    d = grid.dimension
    matrix = np.eye(d + 1)
    matrix[:d, :d] += 0.05 * np.array([[1, -0.7, 0.4], [0.5, -1, 0.3], [-0.2, 0.6, 0.8]])[:d, :d]
    matrix[:d, d] = grid.centre - matrix[:d, :d] @ grid.centre + np.array([1.5, -0.8, 0.6])[:d]
    return Affine(matrix)


def chain(fixed: Grid, moving: Grid) -> Transform:
    """Affine, field, affine, field: what a registration may leave behind."""
    return Transform((small_affine(fixed), smooth_field(fixed), small_affine(fixed).inverse(), smooth_field(moving)))


def spline(grid: Grid, order: int = 3, millimetres: float = 4.0) -> sitk.BSplineTransform:
    """A B-spline over about the middle of a grid, as other programs leave it behind."""
    inner = placed(sitk.GetImageFromArray(np.zeros([n - 3 for n in grid.shape])), grid)
    inner.SetOrigin(grid.physical([1.4] * grid.dimension).tolist())
    transform = sitk.BSplineTransformInitializer(inner, [3, 4, 2][: grid.dimension], order)
    generator = np.random.default_rng(order)
    transform.SetParameters(generator.uniform(-millimetres, millimetres, len(transform.GetParameters())).tolist())
    return transform


def by_sitk(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p.tolist()) for p in points])


def interior(grid: Grid, margin: int = 1) -> tuple[slice, ...]:
    return (..., *[slice(margin, n - margin) for n in grid.shape])


def holds(grid: Grid, points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Which points lie between the centres of a grid's outer voxels, `margin` voxels further in."""
    index = grid.index(points)
    return ((index >= margin) & (index <= np.array(grid.size) - 1 - margin)).all(axis=1)


class TestPoints:
    def test_affine_maps_as_itk(self, any_grid):
        points = random_points(any_grid, margin=-3)
        affine = small_affine(any_grid)
        assert np.allclose(affine.map_points(points), by_sitk(affine.to_sitk(), points), atol=1e-9)
        assert np.allclose(affine.inverse().map_points(affine.map_points(points)), points, atol=1e-9)

    def test_field_maps_as_itk_inside_at_the_edge_and_outside(self, any_grid):
        points = random_points(any_grid, margin=-2)
        field = smooth_field(any_grid)
        mapped = field.map_points(points)
        assert np.allclose(mapped, by_sitk(field.to_sitk(), points), atol=MILLIMETRES)
        index = any_grid.index(points)
        outside = ((index < -0.5) | (index > np.array(any_grid.size) - 0.5)).any(axis=1)
        assert 0 < outside.sum() < len(points)
        assert np.array_equal(mapped[outside], points[outside])

    def test_field_holds_the_millimetres_it_was_made_of(self, any_grid):
        expected = wave(voxel_centres(any_grid), any_grid.centre).T.reshape(any_grid.dimension, *any_grid.shape)
        assert np.allclose(smooth_field(any_grid).millimetres()[0], expected, atol=1e-5)

    def test_a_channel_moves_along_its_tensor_axis(self, grid):
        for axis in range(grid.dimension):
            values = torch.zeros(1, grid.dimension, *grid.shape)
            values[:, axis] = 1
            along_k_j_i = np.eye(grid.dimension)[grid.dimension - 1 - axis]
            start = grid.physical([2] * grid.dimension)[None]
            moved = DisplacementField(values, grid).map_points(start)
            assert np.allclose(moved, grid.physical(2 + along_k_j_i), atol=1e-6)

    def test_chain_maps_as_itk(self, grids):
        fixed, moving = grids
        transform, points = chain(fixed, moving), random_points(fixed, margin=-1)
        assert np.allclose(transform.map_points(points), by_sitk(transform.to_sitk(), points), atol=MILLIMETRES)

    def test_chain_applies_its_first_part_first(self):
        shift, scale = np.eye(4), np.diag([2.0, 2, 2, 1])
        shift[0, 3] = 1
        assert np.allclose(Transform((Affine(shift), Affine(scale))).map_points([[1, 0, 0]]), [[4, 0, 0]])

    def test_chained_the_first_acts_first_as_the_last_of_a_composite_does(self, grids):
        fixed, moving = grids
        transforms = [Transform((small_affine(fixed), smooth_field(fixed))), Transform((smooth_field(moving),))]
        composite = sitk.CompositeTransform([each.to_sitk() for each in reversed(transforms)])
        points = random_points(fixed, margin=-1)
        chained = Transform.chained(transforms)
        assert np.allclose(chained.map_points(points), by_sitk(composite, points), atol=MILLIMETRES)
        assert np.allclose(by_sitk(chained.to_sitk(), points), by_sitk(composite, points), atol=MILLIMETRES)
        assert Transform.chained([Transform((), 2)]).dimension == 2

    def test_no_part_is_the_identity(self):
        points = np.arange(6.0).reshape(-1, 3)
        assert np.array_equal(Transform(()).map_points(points), points)
        assert np.array_equal(by_sitk(Transform(()).to_sitk(), points), points)
        assert Transform((), 2).dimension == 2

    def test_simplified_is_the_same_map_in_fewer_parts(self, grids):
        fixed, moving = grids
        affine = small_affine(fixed)
        parts = (Affine.identity(fixed.dimension), affine, affine, smooth_field(fixed), affine, affine.inverse())
        short = Transform(parts).simplified()
        points = random_points(moving)
        assert [type(p) for p in short.parts][:2] == [Affine, DisplacementField]
        assert np.allclose(short.map_points(points), Transform(parts).map_points(points), atol=1e-6)


class TestDisplacementOnAGrid:
    def test_agrees_with_itk_at_every_voxel(self, grids):
        fixed, moving = grids
        transform = chain(moving, fixed)
        points = voxel_centres(fixed)
        expected = by_sitk(transform.to_sitk(), points) - points
        found = transform.displacement_on(fixed).millimetres()[0].reshape(fixed.dimension, -1).T
        assert np.allclose(found, expected, atol=MILLIMETRES)

    def test_agrees_with_map_points(self, grids):
        fixed, moving = grids
        transform = chain(fixed, moving)
        points = voxel_centres(fixed)
        found = points + transform.displacement_on(fixed).millimetres()[0].reshape(fixed.dimension, -1).T.numpy()
        assert np.allclose(found, transform.map_points(points), atol=MILLIMETRES)

    def test_stays_exact_far_from_the_origin_on_a_large_grid(self):
        grid = Grid((400, 3, 3), (0.5, 1, 1), (-4000, 3000, 2500), tuple(GRIDS["oblique"].direction))
        affine = small_affine(grid)
        points = voxel_centres(grid)
        found = Transform((affine,)).displacement_on(grid).millimetres()[0].reshape(3, -1).T
        assert np.allclose(found, affine.map_points(points) - points, atol=MILLIMETRES)

    def test_inverts_header_and_map_together(self, any_grid):
        assert Transform((), any_grid.dimension).displacement_on(any_grid).values.abs().max() < 1e-9


class TestImages:
    def test_our_warp_is_itk_resampling(self, grid):
        transform = chain(grid, grid)
        image = smooth_image(grid)
        by_itk = sitk.GetArrayFromImage(resample(image, grid, transform.to_sitk()))
        ours = spatial.warp(Volume.from_sitk(image).tensor(), transform.displacement_on(grid).values)[0, 0]
        inside = holds(grid, transform.map_points(voxel_centres(grid)), 0.01).reshape(grid.shape)
        assert inside.mean() > 0.4
        assert np.allclose(ours.numpy()[inside], by_itk[inside], atol=1e-4)

    def test_our_sampling_of_another_grid_is_itk_resampling(self, grids):
        fixed, moving = grids
        transform = chain(fixed, moving)
        image = smooth_image(moving)
        by_itk = sitk.GetArrayFromImage(resample(image, fixed, transform.to_sitk(), background=-1))
        points = transform.map_points(voxel_centres(fixed))
        index = torch.from_numpy(moving.index(points)[:, ::-1].T.copy()).float()
        coordinates = index.view(1, fixed.dimension, *fixed.shape)
        ours = spatial.sample_at(Volume.from_sitk(image).tensor(), coordinates)[0, 0].numpy()
        inside = holds(moving, points, 0.01).reshape(fixed.shape)
        assert inside.mean() > 0.1
        assert np.allclose(ours[inside], by_itk[inside], atol=1e-4)

    def test_a_known_shift_brings_the_images_together(self):
        grid = GRIDS["left-handed oblique"]
        shift = np.array([2.0, -1.0, 1.5])
        image = smooth_image(grid)
        there = sitk.Image(image)
        there.SetOrigin((np.array(grid.origin) + shift).tolist())
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        back = resample(there, grid, Transform((Affine(matrix),)).to_sitk())
        assert np.allclose(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image), atol=1e-5)


class TestFiles:
    @pytest.mark.parametrize("ending", [".h5", ".tfm", ".txt"])
    def test_itk_transform_comes_back(self, grids, ending, tmp_path):
        fixed, moving = grids
        transform, points = chain(fixed, moving), random_points(fixed, margin=-1)
        transform.write(tmp_path / f"t{ending}")
        plain = sitk.ReadTransform(str(tmp_path / f"t{ending}"))
        assert np.allclose(by_sitk(plain, points), transform.map_points(points), atol=MILLIMETRES)
        ours = Transform.read(tmp_path / f"t{ending}")
        assert [type(p) for p in ours.parts] == [type(p) for p in transform.parts]
        assert np.allclose(ours.map_points(points), transform.map_points(points), atol=MILLIMETRES)
        assert [p.name for p in tmp_path.iterdir()] == [f"t{ending}"]

    @pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
    def test_displacement_image_comes_back(self, grids, ending, tmp_path):
        fixed, moving = grids
        transform, points = chain(fixed, moving), voxel_centres(fixed)
        if not file_holds(ending, fixed, vectors=True):
            with pytest.raises(InputError, match=r"cannot hold .*use \.nrrd"):
                transform.write(tmp_path / f"u{ending}", grid=fixed)
            return
        transform.write(tmp_path / f"u{ending}", grid=fixed)
        image = sitk.ReadImage(str(tmp_path / f"u{ending}"), sitk.sitkVectorFloat64)
        by_itk = by_sitk(sitk.DisplacementFieldTransform(image), points)
        assert np.allclose(by_itk, transform.map_points(points), atol=MILLIMETRES)
        assert np.allclose(Transform.read(tmp_path / f"u{ending}").map_points(points), by_itk, atol=MILLIMETRES)

    def test_field_is_written_on_its_own_grid_when_none_is_given(self, any_grid, tmp_path):
        Transform((smooth_field(any_grid),)).write(tmp_path / "u.nrrd")
        assert Grid.of(sitk.ReadImage(str(tmp_path / "u.nrrd"))).almost_equal(any_grid)

    @pytest.mark.parametrize("ending", [".h5", ".tfm", ".txt", ".mat", ".xfm"])
    def test_affine_comes_back(self, ending, tmp_path):
        affine = small_affine(GRIDS["oblique"])
        Transform((affine,)).write(tmp_path / f"a{ending}")
        assert np.allclose(Transform.read(tmp_path / f"a{ending}").parts[0].matrix, affine.matrix, atol=1e-6)

    @pytest.mark.parametrize("ending", [".h5", ".tfm", ".txt"])
    def test_identity_comes_back(self, ending, tmp_path):
        Transform(()).write(tmp_path / f"i{ending}")
        assert Transform.read(tmp_path / f"i{ending}").map_points([[1, 2, 3]]).tolist() == [[1, 2, 3]]

    @pytest.mark.parametrize("ending", [".mat", ".xfm"])
    def test_formats_for_one_matrix_refuse_more(self, ending, tmp_path):
        # ITK writes such files without a word, and cannot read them again.
        grid = GRIDS["regular"]
        for transform in (chain(grid, grid), Transform((smooth_field(grid),)), Transform(())):
            with pytest.raises(InputError, match="one affine"):
                transform.write(tmp_path / f"t{ending}")
        assert not list(tmp_path.iterdir())

    def test_what_other_programs_write_is_read(self, tmp_path):
        euler = sitk.Euler3DTransform((5, 6, 7), 0.1, -0.2, 0.3, (1, 2, 3))
        identity = sitk.Transform(3, sitk.sitkIdentity)
        several = sitk.CompositeTransform([euler, sitk.TranslationTransform(3, (4, 5, 6)), identity])
        points = random_points(GRIDS["regular"])
        for name, transform in {"euler": euler, "several": several}.items():
            sitk.WriteTransform(transform, str(tmp_path / f"{name}.h5"))
            read = Transform.read(tmp_path / f"{name}.h5")
            assert np.allclose(read.map_points(points), by_sitk(transform, points), atol=1e-6)

    def test_nested_composites_are_taken_over(self):
        inner = sitk.CompositeTransform([sitk.ScaleTransform(3, (2, 3, 4)), sitk.TranslationTransform(3, (4, 5, 6))])
        outer = sitk.CompositeTransform([inner, sitk.Euler3DTransform((5, 6, 7), 0.1, -0.2, 0.3, (1, 2, 3))])
        points = random_points(GRIDS["regular"])
        assert np.allclose(Transform.from_sitk(outer).map_points(points), by_sitk(outer, points), atol=1e-6)

    @pytest.mark.parametrize("kind", ["GaussianExponentialDiffeomorphicTransform", "ThinPlateSplineKernelTransform"])
    def test_other_kinds_are_refused_with_a_way_out(self, kind, tmp_path):
        grid = " ".join(map(str, [4, 4, 4, 0, 0, 0, 1, 1, 1, *np.eye(3, dtype=int).ravel()]))
        (tmp_path / "t.tfm").write_text(
            f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}_double_3_3\n"
            f"Parameters: {'0.5 ' * 192}\nFixedParameters: {grid}\n",
            encoding="utf-8",
        )
        with pytest.raises(InputError, match=r"t\.tfm cannot be read.*B-splines.*displacement image.*Slicer"):
            Transform.read(tmp_path / "t.tfm")

    def test_bad_files_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="no file"):
            Transform.read(tmp_path / "absent.h5")
        for name in ("junk.h5", "junk.tfm", "junk.nrrd"):
            (tmp_path / name).write_bytes(b"nothing of the kind")
            with pytest.raises(InputError, match=f"{name} cannot be read"):
                Transform.read(tmp_path / name)
        sitk.WriteImage(smooth_image(GRIDS["regular"]), str(tmp_path / "scalar.nrrd"))
        with pytest.raises(InputError, match="3 values a voxel"):
            Transform.read(tmp_path / "scalar.nrrd")

    def test_bad_names_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="ends in neither"):
            Transform(()).write(tmp_path / "t.xyz")
        with pytest.raises(InputError, match="no grid"):
            Transform((small_affine(GRIDS["regular"]),)).write(tmp_path / "t.nrrd")
        assert not list(tmp_path.iterdir())


class TestBSpline:
    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_maps_as_itk_inside_and_outside_its_domain(self, grid, order):
        points = random_points(grid, margin=-2)
        itk = spline(grid, order)
        ours = Transform.from_sitk(itk)
        expected = by_sitk(itk, points)
        assert [type(part) for part in ours.parts] == [BSpline]
        assert np.allclose(ours.map_points(points), expected, atol=MILLIMETRES)
        assert np.allclose(by_sitk(ours.to_sitk(), points), expected, atol=MILLIMETRES)
        assert 0 < (expected == points).all(axis=1).sum() < len(points)

    @pytest.mark.parametrize("ending", [".h5", ".tfm"])
    def test_compositions_are_read_and_written(self, grids, ending, tmp_path):
        fixed, moving = grids
        parts = [small_affine(fixed).to_sitk(), spline(moving), smooth_field(fixed).to_sitk()]
        composite = sitk.CompositeTransform(parts)
        sitk.WriteTransform(composite, str(tmp_path / f"theirs{ending}"))
        read, points = Transform.read(tmp_path / f"theirs{ending}"), random_points(fixed, margin=-1)
        assert np.allclose(read.map_points(points), by_sitk(composite, points), atol=MILLIMETRES)
        read.write(tmp_path / f"ours{ending}")
        again = sitk.ReadTransform(str(tmp_path / f"ours{ending}"))
        assert np.allclose(by_sitk(again, points), by_sitk(composite, points), atol=MILLIMETRES)

    def test_its_displacement_on_a_grid_is_that_of_itk(self, grids):
        fixed, moving = grids
        itk = sitk.CompositeTransform([small_affine(fixed).to_sitk(), spline(moving)])
        expected = sitk.GetArrayFromImage(
            sitk.TransformToDisplacementField(
                itk, sitk.sitkVectorFloat64, fixed.size, fixed.origin, fixed.spacing, fixed.direction
            )
        )
        found = Transform.from_sitk(itk).displacement_on(fixed).millimetres()[0].movedim(0, -1)
        assert np.allclose(found, expected, atol=MILLIMETRES)

    def test_points_come_home(self, grid):
        transform = Transform((small_affine(grid), *Transform.from_sitk(spline(grid, millimetres=1.0)).parts))
        points = small_affine(grid).inverse().map_points(random_points(grid, margin=2.6))
        back = transform.inverse().map_points(transform.map_points(points))
        assert np.linalg.norm(back - points, axis=1).max() < 0.02

    def test_a_fine_mesh_is_inverted_on_a_grid_that_fits_into_memory(self):
        coefficients = DisplacementField.zero(Grid.regular((403, 303), 0.5))
        (inverse,) = Transform((BSpline(coefficients, 3),)).inverse().parts
        assert inverse.grid.size == (601, 801)

    def test_has_no_grid_to_be_written_on(self, tmp_path):
        with pytest.raises(InputError, match="no grid"):
            Transform.from_sitk(spline(GRIDS["regular"])).write(tmp_path / "u.nrrd")


class TestInverse:
    def test_points_come_home(self, grid):
        transform = Transform((smooth_field(grid, 1.0), small_affine(grid), smooth_field(grid, 0.8)))
        points = random_points(grid, margin=2)
        back = transform.inverse().map_points(transform.map_points(points))
        assert np.linalg.norm(back - points, axis=1).max() < 0.05

    def test_points_come_home_from_a_rough_field(self, grid):
        noise = torch.rand(1, grid.dimension, *grid.shape, generator=torch.Generator().manual_seed(3))
        rough = DisplacementField(0.4 * noise, grid)
        assert spatial.jacobian_determinant(rough.values).min() > 0
        transform = Transform((small_affine(grid), rough, small_affine(grid).inverse()))
        points = random_points(grid, margin=3)
        mapped = transform.map_points(points)
        assert np.linalg.norm(transform.inverse().map_points(mapped) - points, axis=1).max() < 0.01

    def test_its_displacement_on_a_grid_is_as_exact(self, grid):
        transform = Transform((smooth_field(grid, 1.0), small_affine(grid)))
        inverse = transform.inverse()
        coarse = grid.resampled([1.7 * s for s in grid.spacing])
        centres = voxel_centres(coarse)
        found = inverse.displacement_on(coarse).map_points(centres)
        assert np.allclose(found, inverse.map_points(centres), atol=2e-3)

    def test_points_that_were_moved_off_the_grid_come_home(self, grid):
        far = Transform((DisplacementField(torch.full((1, grid.dimension, *grid.shape), 3.0), grid),))
        points = random_points(grid, margin=1)
        assert np.allclose(far.inverse().map_points(far.map_points(points)), points, atol=1e-2)

    def test_residual_of_a_smooth_field_is_small(self, grid):
        field = smooth_field(grid, 1.5)
        inverse = spatial.invert(field.values)
        assert inverse.mean_residual < 0.01

    def test_singular_affine_has_none(self):
        with pytest.raises(InputError, match="singular"):
            Affine(np.diag([1.0, 0, 1, 1])).inverse()


class TestJacobian:
    def test_affine_is_its_determinant_on_any_grid(self, grid):
        affine = small_affine(grid)
        found = Transform((affine,)).jacobian_determinant(grid)
        assert found.shape == (1, 1, *grid.shape)
        assert np.allclose(found, np.linalg.det(affine.matrix), atol=1e-4)

    def test_flipped_map_is_negative_on_any_grid(self, grid):
        mirror = np.eye(grid.dimension + 1)
        mirror[0, 0], mirror[0, -1] = -1, 2 * grid.centre[0]
        assert np.allclose(Transform((Affine(mirror),)).jacobian_determinant(grid), -1, atol=1e-4)

    def test_smooth_map_is_its_analytic_determinant(self, grid):
        scale = 0.09 / np.array([1.0, 1.3, 0.8][: grid.dimension])
        points = voxel_centres(grid) - grid.centre
        values = (0.8 * np.sin(scale * points)).reshape(*grid.shape, grid.dimension)
        field = DisplacementField.from_sitk(placed(sitk.GetImageFromArray(values, isVector=True), grid))
        expected = (1 + 0.8 * scale * np.cos(scale * points)).prod(axis=1).reshape(grid.shape)
        inside = interior(grid)
        found = Transform((field,)).jacobian_determinant(grid)[0, 0].numpy()
        assert np.allclose(found[inside], expected[inside], atol=5e-3)

    def test_equals_itk_where_itk_is_right(self):
        # ITK's filter differentiates along index axes but leaves the vectors physical: right for the identity only.
        grid = GRIDS["anisotropic"]
        field = smooth_field(grid)
        by_itk = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field.to_image(), True))
        inside = interior(grid)
        assert np.allclose(Transform((field,)).jacobian_determinant(grid)[0, 0][inside], by_itk[inside], atol=1e-4)


class TestRefusals:
    def test_2d_with_3d(self):
        with pytest.raises(InputError, match="2D and 3D"):
            Transform((Affine.identity(2), Affine.identity(3)))

    def test_values_of_another_shape(self):
        with pytest.raises(InputError, match="does not fit"):
            DisplacementField(torch.zeros(1, 3, 4, 4, 4), GRIDS["regular"])

    def test_zero_moves_nothing(self, any_grid):
        points = random_points(any_grid)
        assert np.array_equal(DisplacementField.zero(any_grid).map_points(points), points)
