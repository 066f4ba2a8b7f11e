"""The largest batch that fits, against trying all."""

import pytest

from clr_jax.preflight.search import largest


@pytest.mark.parametrize('start', [1, 64, 1000, 10**6])
@pytest.mark.parametrize('limit', [0, 63, 64, 65, 700, 10**5])
def test_it_is_that_of_trying_all(start, limit):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    unit, most = 64, 4200
    best = max((b for b in range(unit, most + 1, unit) if b <= limit), default=0)
    assert largest(fits, unit, start, most) == best
    assert len(tried) == len(set(tried)) <= 13
    assert all(batch % unit == 0 and unit <= batch <= most for batch in tried)


def test_the_configs_own_batch_is_tried_first_and_then_at_most_twice_as_much():
    tried = []
    largest(lambda batch: bool(tried.append(batch)) or batch <= 600, 8, 128, 10**6)
    assert tried[:4] == [128, 256, 512, 1024]


def test_where_not_even_one_piece_is_allowed_nothing_is_tried():
    assert largest(lambda batch: 1 / 0, 64, 64, 63) == 0
