"""Numbers of a scheduled program, against counts by hand and by NumPy."""

import itertools

import numpy as np
import pytest

from clr_jax.preflight import hlo
from clr_jax.preflight.hlo import Array

LOOP = """HloModule jit_f, is_scheduled=true

%below (p: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7), metadata={op_name="n"}
  %p = (s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%product (a: f32[8,4], w: f32[4,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %w = f32[4,4]{1,0} parameter(1)
  ROOT %dot = f32[8,4]{1,0} convolution(%a, %w), dim_labels=bf_io->bf
}

%body (q: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %q = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%q), index=1
  %w.1 = f32[4,4]{1,0} constant({...})
  %fusion = f32[8,4]{1,0} fusion(%x, %w.1), kind=kOutput, calls=%product, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%i.2, %fusion)
}

%rare (r: f32[8,4]) -> f32[8,4] {
  %r = f32[8,4]{1,0} parameter(0)
  ROOT %d.1 = f32[8,8]{1,0} dot(%r, %r), lhs_contracting_dims={1}, rhs_contracting_dims={1}, backend_config={"estimated_cycles":"5000"}
}

%never (r.1: f32[8,4]) -> f32[8,4] {
  ROOT %r.1 = f32[8,4]{1,0} parameter(0)
}

ENTRY %main (x.1: f32[8,4]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %start = (s32[], f32[8,4]{1,0}) tuple(%zero, %x.1)
  %while = (s32[], f32[8,4]{1,0}) while(%start), condition=%below, body=%body
  %y = f32[8,4]{1,0} get-tuple-element(%while), index=1
  %cond = f32[8,4]{1,0} conditional(%which, %y, %y), branch_computations={%rare, %never}
  ROOT %d = f32[8,8]{1,0:S(1)} dot(%y, %y), lhs_contracting_dims={1}, rhs_contracting_dims={1}, backend_config={"estimated_cycles":"9"}
}
"""


@pytest.fixture(scope='module')
def program():
    return hlo.parse(LOOP)


def test_a_program_is_its_computations(program):
    assert program.entry == 'main'
    assert list(program.computations) == ['below', 'product', 'body', 'rare', 'never', 'main']
    it = program.computations['main']['d']
    assert (it.op, it.operands, it.root) == ('dot', ('y', 'y'), True)
    assert it.arrays == (Array('f32', (8, 8), near=True),)


def test_loops_count_with_their_trips_and_branches_do_not(program):
    assert hlo.flops(program) == 7 * 2 * 8 * 4 * 4 + 2 * 8 * 8 * 4
    assert hlo.cycles(program) == 7 * 100 + 9
    assert hlo.unknown_loops(program) == 0
    runs = {run.it.name: (run.times, run.always) for run in hlo.executed(program)}
    assert (runs['fusion'], runs['d.1'], runs['d']) == ((7, True), (1, False), (1, True))


@pytest.mark.parametrize(
    ('of', 'by', 'trips'),
    [
        ('', '', 7),
        ('direction=LT', 'direction=GT', None),
        ('compare(%i, %limit)', 'compare(%i, %i)', None),  # a limit that is computed
        ('ROOT %lt = pred[]{:T(512)} compare', 'ROOT %lt = pred[]{:T(512)} and', None),
        ('constant(7)', 'constant(0)', 0),
        ('body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}', 3),
    ],
)
def test_trips_are_known_of_a_counter_below_a_constant(of, by, trips):
    program = hlo.parse(LOOP.replace(of, by) if of else LOOP)
    loop = program.computations['main']['while']
    assert hlo.trips(program, loop) == trips
    assert hlo.unknown_loops(program) == (trips is None)


@pytest.mark.parametrize(
    ('dtype', 'bytes'),
    [('f32', 24), ('bf16', 12), ('pred', 6), ('s8', 6), ('f8e4m3fn', 6), ('u4', 3), ('token', 0)],
)
def test_bytes_of_arrays(dtype, bytes):
    assert Array(dtype, (2, 3), near=False).bytes == bytes


@pytest.mark.parametrize(
    ('window', 'sizes'),  # of input, kernel and output along one axis
    [
        ('size=3 pad=1_1', (6, 3, 6)),
        ('size=3 stride=2 pad=0_1', (6, 3, 3)),
        ('size=3 pad=2_1 lhs_dilate=2', (3, 3, 6)),  # the gradient of the one before
        ('size=3 pad=0_1 rhs_dilate=2', (6, 3, 3)),  # of its kernel
        ('size=1', (6, 1, 6)),
    ],
)
def test_products_of_a_convolution_leave_out_padding_and_holes(window, sizes):
    size, kernel, out = sizes
    of = dict(part.split('=') for part in window.split())
    stride, hole = int(of.get('stride', 1)), int(of.get('lhs_dilate', 1))
    step, pad = int(of.get('rhs_dilate', 1)), int(of.get('pad', '0_0')[0])
    padded = np.zeros(100, int)  # 1 where an element of the input is
    padded[pad : pad + hole * size : hole] = 1
    met = sum(
        padded[o * stride + k * step] for o, k in itertools.product(range(out), range(kernel))
    )
    text = (
        'ENTRY %main (a: f32[1]) -> f32[1] {\n'
        f'  %a = f32[2,{size},4]{{2,1,0}} parameter(0)\n  %w = f32[{kernel},4,5]{{2,1,0}} parameter(1)\n'
        f'  ROOT %c = f32[2,{out},5]{{2,1,0}} convolution(%a, %w), window={{{window}}}, dim_labels=b0f_0io->b0f\n}}\n'
    )
    assert hlo.flops(hlo.parse(text)) == 2 * 2 * 5 * 4 * met
