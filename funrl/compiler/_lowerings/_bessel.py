"""Bessel and Airy functions.

The rational and Chebyshev approximations are those of the Cephes Math Library (Copyright (c) 2018, Steven Moshier, 3-clause BSD licence),
which torch evaluates too.
"""

import math

import torch
from jax import lax

from funrl.compiler._lowerings._operands import chebyshev, enter, horner, like, where

aten = torch.ops.aten

_PP0 = (
    0.0007969367292973471,
    0.08283523921074408,
    1.239533716464143,
    5.447250030587687,
    8.74716500199817,
    5.303240382353949,
    1.0,
)
_PQ0 = (
    0.0009244088105588637,
    0.08562884743544745,
    1.2535274390105895,
    5.470977403304171,
    8.761908832370695,
    5.306052882353947,
    1.0,
)
_QP0 = (
    -0.011366383889846916,
    -1.2825271867050931,
    -19.553954425773597,
    -93.20601521237683,
    -177.68116798048806,
    -147.07750515495118,
    -51.41053267665993,
    -6.050143506007285,
)
_QQ0 = (
    64.3178256118178,
    856.4300259769806,
    3882.4018360540163,
    7240.467741956525,
    5930.727011873169,
    2062.0933166032783,
    242.0057402402914,
)
_RP0 = (
    -4794432209.782018,
    1956174919465.5657,
    -249248344360967.72,
    9708622510473064.0,
)
_RQ0 = (
    499.563147152651,
    173785.4016763747,
    48440965.83399621,
    11185553704.535683,
    2112775201154.892,
    310518229857422.56,
    3.1812195594320496e16,
    1.7108629408104315e18,
)
_YP0 = (
    15592.436785523574,
    -14663929.59039716,
    5435264770.518765,
    -982136065717.9115,
    87590639439536.7,
    -3466283033847297.0,
    4.4273326857256984e16,
    -1.8495080043698668e16,
)
_YQ0 = (
    1041.2835366425984,
    626107.330137135,
    268919633.39381415,
    86400248710.3935,
    20297961275010.555,
    3171577528429750.5,
    2.5059625617265306e17,
)
_K0A = (
    1.374465435613523e-16,
    4.25981614279661e-14,
    1.0349695257633842e-11,
    1.904516377220209e-09,
    2.5347910790261494e-07,
    2.286212103119452e-05,
    0.001264615411446926,
    0.0359799365153615,
    0.3442898999246285,
    -0.5353273932339028,
)
_K0B = (
    5.300433772686263e-18,
    -1.6475804301524212e-17,
    5.2103915050390274e-17,
    -1.678231096805412e-16,
    5.512055978524319e-16,
    -1.848593377343779e-15,
    6.3400764774050706e-15,
    -2.2275133269916698e-14,
    8.032890775363575e-14,
    -2.9800969231727303e-13,
    1.140340588208475e-12,
    -4.514597883373944e-12,
    1.8559491149547177e-11,
    -7.957489244477107e-11,
    3.577397281400301e-10,
    -1.69753450938906e-09,
    8.574034017414225e-09,
    -4.660489897687948e-08,
    2.766813639445015e-07,
    -1.8317555227191195e-06,
    1.39498137188765e-05,
    -0.00012849549581627802,
    0.0015698838857300533,
    -0.0314481013119645,
    2.4403030820659555,
)
_PP1 = (
    0.0007621256162081731,
    0.07313970569409176,
    1.1271960812968493,
    5.112079511468076,
    8.424045901417724,
    5.214515986823615,
    1.0,
)
_PQ1 = (
    0.0005713231280725487,
    0.06884559087544954,
    1.105142326340617,
    5.073863861286015,
    8.399855543276042,
    5.209828486823619,
    1.0,
)
_QP1 = (
    0.05108625947501766,
    4.982138729512334,
    75.82382841325453,
    366.7796093601508,
    710.8563049989261,
    597.4896124006136,
    211.68875710057213,
    25.207020585802372,
)
_QQ1 = (
    74.23732770356752,
    1056.4488603826283,
    4986.410583376536,
    9562.318924047562,
    7997.041604473507,
    2826.1927851763908,
    336.0936078106983,
)
_RP1 = (
    -899971225.7055594,
    452228297998.19403,
    -72749424522181.83,
    3682957328638529.0,
)
_RQ1 = (
    620.8364781180543,
    256987.25675774884,
    83514679.14319493,
    22151159547.97925,
    4749141220799.914,
    784369607876235.9,
    8.952223361846274e16,
    5.322786203326801e18,
)
_YP1 = (
    1263204747.9017804,
    -647355876379.1603,
    114509511541823.73,
    -8127702555013251.0,
    2.024394757135949e17,
    -7.788771962659501e17,
)
_YQ1 = (
    594.3015923461282,
    235564.09294306856,
    73481194.44597217,
    18760131610.870617,
    3882312774962.3857,
    620557727146953.8,
    6.871410873553005e16,
    3.9727060811656064e18,
)
_K1A = (
    -7.023863479386288e-18,
    -2.427449850519366e-15,
    -6.666901694199329e-13,
    -1.4114883926335278e-10,
    -2.213387630734726e-08,
    -2.4334061415659684e-06,
    -0.0001730288957513052,
    -0.006975723859639864,
    -0.12261118082265715,
    -0.3531559607765449,
    1.5253002273389478,
)
_K1B = (
    -5.756744483665017e-18,
    1.7940508731475592e-17,
    -5.689462558442859e-17,
    1.838093544366639e-16,
    -6.057047248373319e-16,
    2.038703165624334e-15,
    -7.019837090418314e-15,
    2.4771544244813043e-14,
    -8.976705182324994e-14,
    3.3484196660784293e-13,
    -1.2891739609510289e-12,
    5.13963967348173e-12,
    -2.1299678384275683e-11,
    9.218315187605006e-11,
    -4.1903547593418965e-10,
    2.015049755197033e-09,
    -1.0345762465678097e-08,
    5.7410841254500495e-08,
    -3.5019606030878126e-07,
    2.406484947837217e-06,
    -1.936197974166083e-05,
    0.00019521551847135162,
    -0.002857816859622779,
    0.10392373657681724,
    2.7206261904844427,
)
_AN = (
    0.346538101525629,
    12.007595273964581,
    76.27960536152345,
    168.08922493463058,
    159.75639135016442,
    70.53609068404442,
    14.026469116338967,
    1.0,
)
_AD = (
    0.5675945326387702,
    14.75625625848472,
    84.51389701414746,
    177.31808814540045,
    164.2346928715297,
    71.47784008255756,
    14.095913560783403,
    1.0,
)
_AFN = (
    -0.1316963234183318,
    -0.6264565444319123,
    -0.6931580360369335,
    -0.2797799815451191,
    -0.04919001326095003,
    -0.004062659235948854,
    -0.0001592764962392621,
    -2.776491081552329e-06,
    -1.6778769848911465e-08,
)
_AFD = (
    13.356042070655324,
    32.682503279522464,
    26.736704094149957,
    9.187074029072596,
    1.4752914677166642,
    0.11568717379518804,
    0.004402916416152112,
    7.547203482874142e-05,
    4.5185009297058035e-07,
)
_AGN = (
    0.01973399320916857,
    0.39110302961568827,
    1.0657989759959559,
    0.9391692298166502,
    0.35146565610554764,
    0.06338889196289255,
    0.005858041130483885,
    0.000282851600836737,
    6.98793669997261e-06,
    8.117892395543892e-08,
    3.415517847659236e-10,
)
_AGD = (
    9.30892908077442,
    19.835292871831214,
    15.564662893286462,
    5.476860694229755,
    0.9542936116189619,
    0.08645808263523921,
    0.004126565238242226,
    0.00010125908511650914,
    1.1716673321441352e-06,
    4.9183457006293e-09,
)
_ZEROS0 = (5.78318596294678452118, 30.4712623436620863991)
_ZEROS1 = (14.6819706421238932572, 49.2184563216946036703)


def _large(x, order, wave, other):
    """Return J (``wave`` = cos, ``other`` = -sin) or Y (sin, cos) of a large number."""
    pp, pq, qp, qq, phase = ((_PP0, _PQ0, _QP0, _QQ0, 0.25), (_PP1, _PQ1, _QP1, _QQ1, 0.75))[order]
    z = (5.0 / x) * (5.0 / x)
    angle = x - phase * math.pi
    p, q = horner(z, pp) / horner(z, pq), horner(z, qp) / horner(z, qq)
    return (p * wave(angle) + 5.0 / x * q * other(angle)) * (2 / math.pi) ** 0.5 / lax.sqrt(x)


def _negative_sin(x):
    return lax.neg(lax.sin(x))


def _j0(x):
    x = lax.abs(x)
    z = x * x
    small = (z - _ZEROS0[0]) * (z - _ZEROS0[1]) * horner(z, _RP0) / horner(z, _RQ0)
    small = where(x < 0.00001, 1.0 - z / 4.0, small)
    return where(x <= 5.0, small, _large(x, 0, lax.cos, _negative_sin))


def _j1(x):
    size = lax.abs(x)
    z = x * x
    small = horner(z, _RP1) / horner(z, _RQ1) * size * (z - _ZEROS1[0]) * (z - _ZEROS1[1])
    result = where(size <= 5.0, small, _large(size, 1, lax.cos, _negative_sin))
    return where(x < 0, lax.neg(result), result)


def _positive_only(x, at_zero, result):
    return where(x == 0, at_zero, where(x < 0, math.nan, result))


def _y0(x):
    z = x * x
    small = horner(z, _YP0) / horner(z, _YQ0) + 2 / math.pi * lax.log(x) * _j0(x)
    return _positive_only(x, -math.inf, where(x <= 5.0, small, _large(x, 0, lax.sin, lax.cos)))


def _y1(x):
    z = x * x
    small = x * (horner(z, _YP1) / horner(z, _YQ1)) + 2 / math.pi * (_j1(x) * lax.log(x) - 1.0 / x)
    return _positive_only(x, -math.inf, where(x <= 5.0, small, _large(x, 1, lax.sin, lax.cos)))


def _spherical_j0(x):
    z = x * x
    series = horner(z, [(-1) ** k / math.factorial(2 * k + 1) for k in range(6, -1, -1)])
    result = where(lax.abs(x) < 0.5, series, lax.sin(x) / x)
    return where(lax.abs(x) == math.inf, 0, result)


def _i0(x):
    return lax.exp(lax.abs(x)) * lax.bessel_i0e(x)


def _i1(x):
    return lax.exp(lax.abs(x)) * lax.bessel_i1e(x)


def _k(x, order, is_scaled):
    """Return the modified Bessel function of the second kind, times exp(x) if ``is_scaled``."""
    if order == 0:
        small = chebyshev(x * x - 2.0, _K0A) - lax.log(0.5 * x) * _i0(x)
    else:
        small = lax.log(0.5 * x) * _i1(x) + chebyshev(x * x - 2.0, _K1A) / x
    large = chebyshev(8.0 / x - 2.0, (_K0B, _K1B)[order]) / lax.sqrt(x)
    small, large = (small * lax.exp(x), large) if is_scaled else (small, lax.exp(lax.neg(x)) * large)
    return _positive_only(x, math.inf, where(x <= 2.0, small, large))


def _airy_series(first, shift):
    """Return the coefficients in x ** 3 of a power series of Ai, highest first."""
    series = [first]
    for k in range(1, 16):
        series.append(series[-1] / (3 * k * (3 * k + shift)))
    return series[::-1]


def _airy_ai(x):
    size = lax.abs(x)
    root = lax.sqrt(size)
    zeta = 2.0 * size * root / 3.0
    scale = math.pi**-0.5 / lax.sqrt(root)
    z = 1.0 / zeta
    positive = 0.5 * scale * horner(z, _AN) / horner(z, _AD) * lax.exp(lax.neg(zeta))
    squared = z * z
    f = 1.0 + squared * horner(squared, _AFN) / horner(squared, _AFD)
    g = z * horner(squared, _AGN) / horner(squared, _AGD)
    angle = zeta + 0.25 * math.pi
    negative = scale * (lax.sin(angle) * f - lax.cos(angle) * g)
    cubed = x * x * x
    middle = horner(cubed, _airy_series(0.355028053887817239260, -1)) - x * horner(cubed, _airy_series(0.258819403792806798405, 1))
    result = where(x >= 2.09, positive, where(x < -2.09, negative, middle))
    return where(size == math.inf, math.nan, where(x > 103.892, like(x, 0), result))


enter(
    {
        aten.special_bessel_j0.default: _j0,
        aten.special_bessel_j1.default: _j1,
        aten.special_bessel_y0.default: _y0,
        aten.special_bessel_y1.default: _y1,
        aten.special_spherical_bessel_j0.default: _spherical_j0,
        aten.i0.default: _i0,
        aten.special_i0.default: _i0,
        aten.special_i0e.default: lax.bessel_i0e,
        aten.special_i1.default: _i1,
        aten.special_i1e.default: lax.bessel_i1e,
        aten.special_modified_bessel_i0.default: _i0,
        aten.special_modified_bessel_i1.default: _i1,
        aten.special_modified_bessel_k0.default: lambda x: _k(x, 0, False),
        aten.special_modified_bessel_k1.default: lambda x: _k(x, 1, False),
        aten.special_scaled_modified_bessel_k0.default: lambda x: _k(x, 0, True),
        aten.special_scaled_modified_bessel_k1.default: lambda x: _k(x, 1, True),
        aten.special_airy_ai.default: _airy_ai,
    }
)
