"""What values mean: Hounsfield units are told from others, padding and hot voxels are set aside, a preset is obeyed."""

from __future__ import annotations

import numpy as np
import pytest
from phantom import centred, head

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.preparation import choose_preset, is_ct, padding, prepare
from RecurrentRegistrationLib.pipeline.presets import PRESETS, SOFT_TISSUE
from RecurrentRegistrationLib.volume import Volume

GRID = centred((24, 28, 26), (3.0, 3.0, 3.0))
HEAD = head(GRID).array  # 0 in air, about 1 in tissue
_z, _y, _x = np.indices(GRID.shape)
OUTSIDE = (((_x - 12.5) / 13) ** 2 + ((_y - 13.5) / 14) ** 2 > 1)[None]  # of a round field of view
NOISE = np.random.default_rng(0).normal(0, 8, HEAD.shape)
CT = np.where(HEAD < 0.2, -1000, 60 * HEAD - 40) + NOISE
MR = HEAD * 900

UNITS = {
    "CT": (CT, True),
    "CT, padded": (np.where(OUTSIDE, -2000, CT), True),
    "CT, padded, with more noise": (np.where(OUTSIDE, -2000, CT) + 3 * NOISE, True),
    "CT, padded far below": (np.where(OUTSIDE, -32768, CT), True),
    "CT, tissue cut out of air": (np.where(HEAD < 0.2, -1000, 60 * HEAD - 60 + NOISE), True),
    "CT, 32768 lower": (CT - 32768, False),
    "CT, 1024 higher": (CT + 1024, False),
    "MR": (MR, False),
    "MR, padded with -1024": (np.where(OUTSIDE, -1024, MR), False),
    "MR, padded with -32768": (np.where(OUTSIDE, -32768, MR), False),
    "PET": (HEAD * 3.5e4, False),
}


@pytest.mark.parametrize("name", UNITS)
def test_hounsfield_units_are_told_from_others(name):
    values, truth = UNITS[name]
    assert is_ct(Volume(values, GRID)) == truth
    assert (choose_preset(Volume(values, GRID), Volume(values, GRID)) in ("ct", "ct-lung")) == truth


@pytest.mark.parametrize("fill", [-1024, -32768, -1e6])
@pytest.mark.parametrize("preset", ["mr", "multimodal"])
def test_padding_changes_nothing_of_what_was_scanned(fill, preset):
    plain = prepare(Volume(MR, GRID), None, PRESETS[preset]).values.numpy()[0]
    padded = prepare(Volume(np.where(OUTSIDE, fill, MR), GRID), None, PRESETS[preset]).values.numpy()[0]
    assert np.abs(padded - plain)[~OUTSIDE].max() < 0.05
    assert padded[OUTSIDE].max() == 0


def test_what_is_no_padding():
    assert padding(CT.ravel()) is None
    assert padding(MR.ravel()) is None
    assert padding(np.zeros(100)) is None
    assert padding(np.where(HEAD < 0.5, 0, MR).ravel()) is None  # air around a stripped brain


@pytest.mark.parametrize("values", [CT, CT - 32768, np.where(OUTSIDE, -1024, MR)])
def test_a_named_preset_is_obeyed(values):
    assert prepare(Volume(values, GRID), None, PRESETS["mr"]).values.std() > 0.15
    low, high = PRESETS["ct"].window
    if values.max() > low:
        found = prepare(Volume(values, GRID), None, PRESETS["ct"]).values.numpy()[0]
        assert np.allclose(found, np.clip((values - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.parametrize("preset", ["ct", "ct-lung"])
@pytest.mark.parametrize("values", [CT - 32768, CT + 5000, MR + 4e4])
def test_a_window_that_leaves_nothing_is_refused(preset, values):
    with pytest.raises(InputError, match=r"outside the window.*choose another preset"):
        prepare(Volume(values, GRID), None, PRESETS[preset])


@pytest.mark.parametrize("times", [8, 100, 10_000])
def test_hot_voxels_do_not_darken_the_rest(times):
    hot = MR.copy()
    hot.ravel()[np.random.default_rng(1).choice(hot.size, int(0.004 * hot.size), replace=False)] = 900.0 * times
    plain, found = (prepare(Volume(v, GRID), None, PRESETS["mr"]).values for v in (MR, hot))
    tissue = (HEAD > 0.5) & (hot == MR)
    assert found.numpy()[0][tissue].mean() > 0.6 * plain.numpy()[0][tissue].mean()


def test_one_bright_object_does_not_darken_the_rest():
    bright = MR.copy()
    bright[0, 10:14, 10:14, 10:13] = 1e5
    plain, found = (prepare(Volume(v, GRID), None, PRESETS["mr"]).values for v in (MR, bright))
    tissue = (HEAD > 0.5) & (bright == MR)
    assert found.numpy()[0][tissue].mean() > 0.6 * plain.numpy()[0][tissue].mean()


@pytest.mark.parametrize(
    ("share", "times", "told"), [(0.004, 60, True), (0.0002, 1000, True), (0.004, 2, False), (0, 1, False)]
)
def test_spikes_are_said(share, times, told):
    values = MR.copy()
    values.ravel()[np.random.default_rng(1).choice(values.size, int(share * values.size), replace=False)] *= times
    values.ravel()[: 9 * told] = times * 900
    said = Images(Volume(MR, GRID), Volume(values, GRID)).remarks(PRESETS["mr"])
    assert [("moving image are far brighter" in sentence) for sentence in said] == [True] * told
    assert not Images(Volume(MR, GRID), Volume(values, GRID)).remarks(PRESETS["ct"])


def test_a_ct_image_beside_another_modality_keeps_its_window_of_soft_tissue():
    low, high = SOFT_TISSUE
    found = prepare(Volume(CT, GRID), None, PRESETS["multimodal"]).values.numpy()[0]
    assert np.allclose(found, np.clip((CT - low) / (high - low), 0, 1), atol=1e-5)
