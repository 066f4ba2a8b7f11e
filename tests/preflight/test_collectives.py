"""What a step communicates, of a chip, as the compiler for TPUs schedules it."""

import json

import jax
import numpy as np

from clr_jax import parallel, train
from clr_jax.preflight import program
from tests.conftest import config

LAYERS, WIDTHS, BATCH = 4, [8, 16, 24, 8], 32  # of batch normalisation


def collectives(slices: int = 1, groups: int = 1) -> list[dict]:
    """Of SimCLR's step with a ConvNet and two layers of projector, on 2 x 2 chips a slice."""
    c = config('simclr_digits', 'smoke')
    c.encoder.widths, c.method.projector = WIDTHS[:2], WIDTHS[2:]
    c.batch_size, c.bn_groups, c.probe.learning_rate = BATCH, groups, 0.0
    asked = {'config': json.loads(json.dumps(c.to_dict())), 'examples': 100, 'classes': 10}
    facts = program.facts(asked | {'topology': 'v5e:2x2', 'slices': slices})
    return [each for each in facts['program']['collectives'] if each['always']]


def parameters() -> int:
    """Bytes of the gradient."""
    c = config('simclr_digits', 'smoke')
    c.encoder.widths, c.method.projector = WIDTHS[:2], WIDTHS[2:]
    run = train.describe(c.to_dict(), 100, 0)
    shapes = train.state_shapes(run, parallel.make_mesh())
    return sum(4 * leaf.size for leaf in jax.tree.leaves(shapes.params))


def test_each_thing_is_sent_once(libtpu):
    """A layer's statistics and their gradients in one sum each, the embeddings, their gradients, and all
    gradients of parameters in one sum in float32."""
    found = collectives()
    assert len(found) == 2 * LAYERS + 3
    *small, embeddings, of_embeddings, gradient = sorted(found, key=lambda each: each['bytes'])
    statistics = sorted(2 * 4 * width for width in WIDTHS for _ in range(2))
    spare = np.array([each['bytes'] for each in small]) - statistics
    assert ((spare >= 0) & (spare <= 8)).all()  # a loss may travel with them
    assert {each['dtype'] for each in small} == {'f32'}
    # a TPU multiplies in bfloat16, so the compiler sends no more
    assert (embeddings['kind'], embeddings['dtype']) == ('all-gather', 'bf16')
    assert embeddings['bytes'] == 2 * 2 * BATCH * WIDTHS[-1]
    assert (of_embeddings['dtype'], of_embeddings['bytes']) == ('f32', 4 * 2 * BATCH * WIDTHS[-1])
    assert gradient['dtype'] == 'f32'
    assert (
        parameters() <= gradient['bytes'] < parameters() + 1024
    )  # the new batch statistics, metrics


def test_statistics_of_groups_stay_in_their_slice(libtpu):
    """Forward they are all that is sent before the embeddings; backward, after their gradients."""

    def halves(**how):
        found = collectives(2, **how)
        kinds = [each['kind'] for each in found]
        return found[: kinds.index('all-gather')], found[kinds.index('reduce-scatter') + 1 :]

    forward, backward = halves(groups=2)
    assert [each['bytes'] for each in forward] == [8 * width for width in WIDTHS]
    # the first layer's travel with the gradients of parameters
    *last, _ = reversed([8 * width for width in WIDTHS])
    assert [each['bytes'] for each in backward[: LAYERS - 1]] == last
    assert not any(each['cross_slice'] for each in forward + backward[: LAYERS - 1])
    between, _ = halves(groups=1)
    assert sum(each['cross_slice'] for each in between) == LAYERS
