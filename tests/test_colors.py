"""Colours by the formulas of their standards, and encoders that see nothing but their channels."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import colors, networks
from clr_jax.colors import GROUPS, Encoders
from tests.oracles import assert_close

CORNERS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))  # black, blue, green, ... white
LAB = {  # of colours by scikit-image 0.26, rgb2lab
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
    (0.0, 0.0, 1.0): (32.29567, 79.18559, -107.85730),
    (0.0, 1.0, 0.0): (87.73510, -86.18303, 83.17970),
    (0.0, 1.0, 1.0): (91.11330, -48.09060, -14.12633),
    (1.0, 0.0, 0.0): (53.24059, 80.09231, 67.20275),
    (1.0, 0.0, 1.0): (60.32351, 98.23305, -60.82102),
    (1.0, 1.0, 0.0): (97.13951, -21.55468, 94.47812),
    (1.0, 1.0, 1.0): (100.0, -0.00245, 0.00465),
}
YCBCR = {  # rgb2ycbcr
    (0.0, 0.0, 0.0): (16.0, 128.0, 128.0),
    (0.0, 0.0, 1.0): (40.966, 240.0, 109.786),
    (0.0, 1.0, 0.0): (144.553, 53.797, 34.214),
    (1.0, 0.0, 0.0): (81.481, 90.203, 240.0),
    (1.0, 1.0, 1.0): (235.0, 128.0, 128.0),
}


def lab(red, green, blue):
    """CIE 15 and IEC 61966-2-1, one colour."""
    r, g, b = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    )
    x = (0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047
    y = 0.212671 * r + 0.715160 * g + 0.072169 * b
    z = (0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883
    f = lambda t: t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116
    return 116 * f(y) - 16, 500 * (f(x) - f(y)), 200 * (f(y) - f(z))


def ycbcr(red, green, blue):
    """ITU-R BT.601 from its luma weights and the ranges of 8 bits."""
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    return 16 + 219 * y, 128 + 112 * (blue - y) / 0.886, 128 + 112 * (red - y) / 0.701


def pixels():
    """Of all shades, some so dark that both formulas are linear."""
    rng = np.random.default_rng(0)
    return rng.random((4, 5, 6, 3)) ** rng.integers(1, 9, (4, 1, 1, 3))


@pytest.mark.parametrize(('convert', 'known'), [(colors.lab, LAB), (colors.ycbcr, YCBCR)])
def test_known_colours(convert, known):
    np.testing.assert_allclose(convert(jnp.array(list(known))), list(known.values()), atol=1e-3)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize(
    ('convert', 'formula', 'rounding'), [(colors.lab, lab, 1e-11), (colors.ycbcr, ycbcr, 2e-5)]
)
def test_the_formulas(float64, convert, formula, rounding, dtype):
    """rounding: of the coefficients, of which BT.601's have three decimals."""
    x = pixels().astype(dtype)
    expected = np.array([formula(*map(float, pixel)) for pixel in x.reshape(-1, 3)])
    found = convert(jnp.asarray(x))
    assert found.dtype == dtype
    assert_close(found.reshape(-1, 3), expected, rounding if dtype == 'float64' else 2e-5)


def test_the_dark_pixels_are_on_both_sides_of_the_thresholds():
    x = pixels()
    for threshold in (0.008856, 0.04045):
        assert 0.1 < (x < threshold).mean() < 0.9


@pytest.mark.parametrize('group', GROUPS)
def test_a_standardised_group_is_in_minus_one_to_one_and_reaches_both(group):
    """At corners of the cube of colours; inside it no channel is beyond."""
    steps = np.linspace(0, 1, 12)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 1, 3)
    x = networks.standardize(
        colors.channels(jnp.array(cube), group), **colors.standard(group)
    )  # [1, n, 1, c]
    corners = networks.standardize(
        colors.channels(jnp.array(CORNERS).reshape(1, -1, 1, 3), group), **colors.standard(group)
    )
    assert x.shape[-1] == len(colors.standard(group)['mean'])
    for found in (x, corners):
        np.testing.assert_allclose(found.min((0, 1, 2)), -1, atol=1e-5)
        np.testing.assert_allclose(found.max((0, 1, 2)), 1, atol=1e-5)


class Mean(nn.Module):
    """The mean pixel, standardised, and a parameter that tells copies apart."""

    mean: tuple = (7.0,)
    std: tuple = (7.0,)

    @nn.compact
    def __call__(self, x, rows):
        offset = self.param('offset', nn.initializers.normal(), ())
        return networks.standardize(x, self.mean, self.std).mean((1, 2)) + offset


def test_each_group_has_a_copy_of_the_encoder_that_sees_its_channels():
    groups = ('L', 'ab', 'rgb')
    encoders = Encoders(Mean(), groups)
    x = np.float32(pixels())
    params, _ = networks.init(encoders, jax.random.key(0), x, rows=None)
    assert set(params) == set(groups)
    offsets = [float(params[group]['offset']) for group in groups]
    assert len(set(offsets)) == 3
    h = networks.evaluate(encoders, params, {}, x, rows=None)  # [n, 6]
    center, half = np.array([50, 6.025, -6.6895, 0.5, 0.5, 0.5]), [50, 92.208, 101.1675] + [0.5] * 3
    seen = [np.array([lab(*pixel) for pixel in image.reshape(-1, 3)]).mean(0) for image in x]
    seen = np.concatenate([seen, x.mean((1, 2))], 1)  # L, a, b, R, G, B
    expected = (seen - center) / half + np.repeat(offsets, [1, 2, 3])
    np.testing.assert_allclose(h, expected, atol=1e-5)
