"""Distillation as in SimCLR v2 (Chen et al., 2020; arXiv:2006.10029, eq. 2): a student learns the
probabilities that a frozen teacher gives to unlabelled images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks
from clr_jax.entry import Problem, known
from clr_jax.heads import classified
from clr_jax.losses.classification import distill
from clr_jax.method import Aux, Method, features


class DistillationState(NamedTuple):
    stats: Any  # of the student
    teacher: Any  # (params, state) of the teacher's run, which never change


def distillation(
    encoder,
    classes,
    teacher,
    *,
    temperature=0.1,
    constant='paper',
    projector=(),
    head_layers=0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The student is a network as in `finetune`; it sees each view as the teacher does, which is in
    evaluation mode. Labels are not used.

    temperature: of both; the paper's is 0.1 for a teacher like the student, 1 for a bigger one.
    constant: 'paper' (eq. 2) or 'official' (the authors' notebook: times the square of the
    temperature). projector, head_layers, dtype: as in `finetune`.
    """
    if teacher is None:
        raise Problem(
            'config.teacher.workdir is empty: it is the run whose classifier is to be distilled'
        )
    if not temperature > 0:
        raise Problem(f'config.method.temperature={temperature}: must be above 0')
    known([constant], ('paper', 'official'), 'config.method.constant')
    head = {'bn_groups': bn_groups, 'dtype': dtype}
    network = classified(encoder, classes, projector, head_layers, **head)

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        frozen = (pretrained or {}).get('teacher')
        frozen = frozen or teacher.init(jax.random.fold_in(key, 1), batch)
        if 'logits' not in jax.eval_shape(teacher.features, *frozen, batch):
            missing = 'has no classifier; it must be one of a method such as finetune'
            raise Problem(f'the run in config.teacher.workdir {missing}')
        return params, DistillationState(stats, frozen)

    def loss(params, state, batch, *, key, time):
        seen = [batch | {'views': (view,)} for view in batch['views']]
        said = [teacher.features(*state.teacher, one)['logits'] for one in seen]
        target = jax.lax.stop_gradient(jnp.stack(said, 1))  # [b, v, classes]
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        h, z, logits = networks.stack(views)  # [b, v, d], [b, v, e], [b, v, classes]
        value = distill(logits, target, temperature, constant=constant)
        agreement = (logits.argmax(-1) == target.argmax(-1)).mean()
        return value, Aux(state._replace(stats=stats), {'agreement': agreement}, h, z)

    return Method(init, loss, features(network, classifier=True))
