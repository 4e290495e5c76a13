"Distances of features against their formulas written out: complex numbers, and many digits."

import cmath
import math

import mpmath
import pytest
import torch
from test_match import D, finite_differences, make, syn

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.distil import DM
from ddnb.distil.distances import FEATURE_DISTANCES, hyperbolic, ncfm


def clouds(n, scale=1.0, dim=5, seed=0, classes=2):
    "Positive features, as a ReLU leaves them, of each class."
    draws = torch.rand(classes, n, dim, generator=rng(seed)).double()
    return list(draws * scale)


def test_the_mean_is_what_dm_was_before_there_were_names():
    real, fake = clouds(6), clouds(3, seed=1)
    want = [((a.mean(0) - b.mean(0)) ** 2).sum() for a, b in zip(real, fake)]
    assert torch.equal(FEATURE_DISTANCES["mean"](real, fake), torch.stack(want))


def test_ncfm_equals_complex_numbers_written_out():
    real, fake = clouds(6), clouds(3, seed=1)
    t = torch.randn(5, 7, generator=rng(3)).double()
    got = ncfm(real, fake, rng(3), frequencies=7)

    def phi(f, j):
        terms = []
        for row in f.tolist():
            length = math.sqrt(sum(v * v for v in row))
            angle = sum(v / length * w for v, w in zip(row, t[:, j].tolist()))
            terms.append(cmath.exp(1j * angle))
        return sum(terms) / len(terms)

    for c in range(2):
        apart = [abs(phi(real[c], j) - phi(fake[c], j)) for j in range(7)]
        assert got[c].item() == pytest.approx(300 / math.sqrt(2) * sum(apart) / 7, rel=1e-6)


def lorentz(a, b):
    return sum(u * v for u, v in zip(a[1:], b[1:])) - a[0] * b[0]


def centroid(f):
    "The normalised mean on the hyperboloid, in mpmath."
    points = []
    for row in f.tolist():
        row = [mpmath.mpf(v) for v in row]
        r = mpmath.sqrt(sum(v * v for v in row))
        points.append([mpmath.cosh(r), *[mpmath.sinh(r) * v / r for v in row]])
    m = [sum(column) / len(points) for column in zip(*points)]
    length = mpmath.sqrt(-lorentz(m, m))
    return [v / length for v in m]


@pytest.mark.parametrize("scale", [0.1, 1, 12, 40])
@pytest.mark.parametrize("n", [1, 4])
def test_hyperbolic_equals_its_formula_in_a_hundred_digits(scale, n):
    real, fake = clouds(n, scale), clouds(n, scale, seed=1)
    with mpmath.workdps(100):
        want = [20 * mpmath.acosh(-lorentz(centroid(a), centroid(b))) for a, b in zip(real, fake)]
    for got, w in zip(hyperbolic(real, fake), want):
        assert got.item() == pytest.approx(float(w), rel=1e-9)


def test_a_cloud_is_no_distance_from_itself():
    real = clouds(4)
    for name, between in FEATURE_DISTANCES.items():
        x = [r.clone().requires_grad_() for r in real]
        apart = between(real, x, rng(0))
        apart.sum().backward()
        assert apart.detach().abs().max() < 1e-3, name
        assert all(f.grad.isfinite().all() for f in x), name


@pytest.mark.parametrize("distance", FEATURE_DISTANCES)
def test_gradients_of_dm_are_those_of_finite_differences(distance):
    x, y = syn(dtype=torch.float64)
    objective = lambda: DM(D, make(), generator=rng(1), batch=4, distance=distance)
    assert finite_differences(objective, x, y, n=6) < 1e-4


def test_dm_takes_a_function_and_refuses_other_words():
    x, y = syn()

    def largest(real, syn, generator):
        return torch.stack([r.max() - s.max() for r, s in zip(real, syn)]).abs()

    assert DM(D, make(), generator=rng(1), batch=4, distance=largest)(x, y).ndim == 0
    with pytest.raises(DdnbError, match="distance is 'men'.*'mean'"):
        DM(D, make(), distance="men")
