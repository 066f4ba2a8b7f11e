"""Supervised training of a whole network: fine-tuning of what another run has learned, or without
one the supervised baseline."""

import jax

from clr_jax import mixing, networks
from clr_jax.entry import Problem
from clr_jax.heads import classified
from clr_jax.losses.classification import cross_entropy
from clr_jax.method import Aux, Method, State, check_labels, features


def finetune(
    encoder,
    classes,
    *,
    projector=(),
    head_layers=0,
    label_smoothing=0.0,
    mixup=0.0,
    cutmix=0.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """Encoder, first layers of the projector and a linear classifier, all trained on every view of
    the labelled examples, with batch statistics in training mode.

    projector: widths of all its layers in the run that config.pretrained names. head_layers: how
    many of them are kept, with their norms and ReLUs; SimCLR v2 keeps the first (Chen et al., 2020;
    arXiv:2006.10029, section 2), others none. dtype: of their computation. mixup, cutmix: parameters
    of `mixing.mixed`; MAE has 0.8 and 1 (He et al., 2021; arXiv:2111.06377, table 9).
    """
    check_labels('finetune', classes)
    if not 0 <= label_smoothing < 1:
        raise Problem(f'config.method.label_smoothing={label_smoothing}: from 0 up, below 1')
    mixing.check(mixup, cutmix)
    head = {'bn_groups': bn_groups, 'dtype': dtype}
    network = classified(encoder, classes, projector, head_layers, **head)

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        x, label, mix = batch['views'], batch['label'], None
        if mixup or cutmix:
            x, mix = mixing.mixed(x, label, jax.random.fold_in(key, 1), mixup, cutmix)
        views, stats = networks.apply_views(network, params, state.stats, x, key=key)
        h, z, logits = networks.stack(views)  # [b, v, d], [b, v, e], [b, v, classes]
        value, top1 = cross_entropy(logits, label, label_smoothing, mix)
        return value, Aux(State(stats), {'top1': top1}, h, z)

    return Method(init, loss, features(network, classifier=True))
