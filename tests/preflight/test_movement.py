"""What a program sends, moves and holds: small programs as TPUs' compiler writes them, counted by hand."""

import pytest

from clr_jax.preflight import hlo, movement


def program(body: str, before: str = '') -> hlo.Program:
    """A program with these lines as its entry."""
    lines = '\n'.join(f'  {line.strip()}' for line in body.strip().splitlines())
    return hlo.parse(f'{before}\n\nENTRY %main (x: f32[8]) -> f32[8] {{\n{lines}\n}}\n')


def sent(body: str, before: str = '', slices=(0, 0, 1, 1)):
    """(kind, dtype, bytes, async, between slices) of each collective."""
    found = movement.collectives(program(body, before), list(slices))
    return [(c.kind, c.dtype, c.bytes, c.is_async, c.cross_slice) for c in found]


@pytest.mark.parametrize(
    ('groups', 'cross'),
    [
        ('replica_groups={{0,1},{2,3}}', False),
        ('replica_groups={{0,2},{1,3}}', True),
        ('replica_groups={}', True),  # all
        ('replica_groups=[2,2]<=[4]', False),
        ('replica_groups=[2,2]<=[2,2]T(1,0)', True),
        ('replica_groups=[1,4]<=[4]', True),
    ],
)
def test_an_all_reduce_crosses_slices_where_its_groups_do(groups, cross):
    body = f"""
        %x = f32[8]{{0}} parameter(0)
        %y = bf16[2,3]{{1,0}} parameter(1)
        ROOT %sum = (f32[8]{{0}}, bf16[2,3]{{1,0}}) all-reduce(%x, %y), channel_id=1, {groups}, to_apply=%add
    """
    assert sent(body) == [('all-reduce', 'f32', 44, False, cross)]


def test_a_permutation_crosses_slices_where_a_pair_does():
    body = """
        %x = f32[8]{0} parameter(0)
        %a = f32[8]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
        ROOT %b = f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,2}}
    """
    assert [each[-1] for each in sent(body)] == [False, True]


def test_bytes_are_those_of_the_whole_array():
    body = """
        %x = f32[8]{0} parameter(0)
        %g = f32[32]{0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}
        ROOT %s = f32[8]{0} reduce-scatter(%g), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
    """
    assert [each[2] for each in sent(body)] == [128, 128]


PIECES = """
%first (p: f32[8]) -> (f32[8], f32[32], u32[]) {
  %p = f32[8]{0} parameter(0)
  %g = f32[32]{0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="1"}
  ROOT %s = (f32[8]{0}, f32[32]{0}, u32[]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%between (p.1: f32[8]) -> f32[32] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %g.1 = f32[32]{0} all-gather(%p.1), channel_id=1, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="1"}
}
"""


def test_a_gather_in_pieces_beside_other_work_is_one_and_asynchronous():
    body = """
        %x = f32[8]{0} parameter(0)
        %start = (f32[8]{0}, f32[32]{0}, u32[]) fusion(%x), kind=kCustom, calls=%first
        %a = f32[8]{0} get-tuple-element(%start), index=0
        %on = f32[32]{0} fusion(%a), kind=kCustom, calls=%between
        ROOT %done = f32[32]{0} fusion(%a), kind=kCustom, calls=%between
    """
    assert sent(body, PIECES) == [('all-gather', 'f32', 128, True, True)]


@pytest.mark.parametrize('between', [True, False])
def test_start_and_done_overlap_only_what_is_between_them(between):
    work = '%w = f32[8]{0} fusion(%x), kind=kLoop, calls=%twice'
    body = f"""
        %x = f32[8]{{0}} parameter(0)
        %s = f32[8]{{0}} all-reduce-start(%x), replica_groups={{{{0,1}},{{2,3}}}}, to_apply=%add
        {work if between else '%none = f32[] constant(0)'}
        %d = f32[8]{{0}} all-reduce-done(%s)
        {work if not between else '%none = f32[] constant(0)'}
    """
    twice = '%twice (p: f32[8]) -> f32[8] {\n  ROOT %p = f32[8]{0} parameter(0)\n}'
    assert sent(body, twice) == [('all-reduce', 'f32', 32, between, False)]


def test_a_sum_on_other_cores_is_found_where_it_is_called():
    body = """
        %x = f32[8]{0} parameter(0)
        %s = ((f32[8]{0}, token[]), f32[8]{0}) call-start(%x, %t), async_execution_thread="sparsecore", to_apply=%called
        %d = f32[8]{0} call-done(%s)
        ROOT %w = f32[8]{0} fusion(%d), kind=kLoop, calls=%twice
    """
    called = """
%called (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} all-reduce(%p), replica_groups={}, to_apply=%add
}

%twice (q: f32[8]) -> f32[8] {
  ROOT %q = f32[8]{0} parameter(0)
}
"""
    assert sent(body, called) == [('all-reduce', 'f32', 32, False, True)]
    lines = body.strip().splitlines()
    lines.insert(2, '%o = f32[8]{0} fusion(%x), kind=kLoop, calls=%twice')
    assert sent('\n'.join(lines), called) == [('all-reduce', 'f32', 32, True, True)]


def test_what_goes_through_the_hosts_is_between_slices():
    body = """
        %x = f32[1,8]{1,0} parameter(0)
        %t = token[] after-all()
        %send = (f32[1,8]{1,0}, u32[], token[]) send(%x, %t), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
        %recv = (f32[1,8]{1,0}, u32[], token[]) recv(%t), channel_id=3, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
        %done = token[] send-done(%send), channel_id=4
        ROOT %got = (f32[1,8]{1,0}, token[]) recv-done(%recv), channel_id=3
    """
    assert sent(body) == [('all-reduce', 'f32', 32, False, True)]


FUSED = """
%cut (p: f32[10,8], i: s32[]) -> f32[1,8] {
  %p = f32[10,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[10,8]{1,0} bitcast(%p)
  ROOT %c = f32[1,8]{1,0} dynamic-slice(%b, %i), dynamic_slice_sizes={1,8}
}

%paste (q: f32[10,8], r: f32[1,8], j: s32[]) -> f32[10,8] {
  %q = f32[10,8]{1,0} parameter(0)
  %r = f32[1,8]{1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %u = f32[10,8]{1,0} dynamic-update-slice(%q, %r, %j)
}

%twice (v: f32[10,8]) -> f32[10,8] {
  %v = f32[10,8]{1,0} parameter(0)
  ROOT %w = f32[10,8]{1,0} add(%v, %v)
}
"""


@pytest.mark.parametrize(
    ('line', 'bytes'),
    [
        ('%y = f32[10,8]{1,0} fusion(%x), calls=%twice', 640),
        ('%y = f32[10,8]{1,0:T(8,128)S(1)} fusion(%x), calls=%twice', 320),  # into VMEM
        ('%y = f32[1,8]{1,0} fusion(%x, %i), calls=%cut', 32 + 32 + 4),  # a row is read
        ('%y = f32[10,8]{1,0} fusion(%x, %row, %i), calls=%paste', 32 + 32 + 4),  # and written
        ('%y = (f32[10,8]{1,0:S(1)}, f32[10,8]{1,0}, u32[]{:S(2)}) copy-start(%x)', 320),
        ('%y = ((f32[10,8]{1,0}), f32[2,8]{1,0:S(1)}, s32[]) slice-start(%x)', 64),
        ('%y = f32[10,8]{1,0:S(1)} copy-done(%z)', 0),
        ('%y = f32[10,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"', 0),
        ('%y = f32[10,8]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"', 640),
        ('%y = f32[10,8]{1,0} bitcast(%x)', 0),
        ('%y = f32[10,8]{1,0} all-reduce(%x), to_apply=%add', 640),
    ],
)
def test_traffic_is_what_crosses_the_edge_of_hbm(line, bytes):
    given = """
        %x = f32[10,8]{1,0} parameter(0)
        %row = f32[1,8]{1,0} parameter(1)
        %i = s32[] parameter(2)
    """
    assert movement.traffic(program(given + line, FUSED)) == bytes


def test_the_largest_arrays_are_those_in_hbm():
    body = """
        %x = f32[1024,1024]{1,0} parameter(0), metadata={op_name="params"}
        %y = f32[1024,1024]{1,0} fusion(%x), calls=%twice
        %z = f32[2048,2048]{1,0:S(1)} fusion(%x), calls=%twice
        %k = bf16[1024,2048]{1,0} all-gather(%x), replica_groups={}
        %t = f32[4]{0} fusion(%x), calls=%twice
        ROOT %g = (f32[1024,1024]{1,0}) tuple(%y)
    """
    found = movement.largest(program(body, FUSED))
    assert [(h.dtype, h.shape, h.bytes, h.number, h.computed) for h in found] == [
        ('f32', (1024, 1024), 2**22, 2, True),
        ('bf16', (1024, 2048), 2**22, 1, False),
    ]
    assert found[0].source == 'params'
