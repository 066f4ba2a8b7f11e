"""SimCSE (Gao et al., 2021; arXiv:2104.08821): a sentence finds itself under another dropout mask,
or what it entails, among the other sentences of the batch."""

from clr_jax import networks
from clr_jax.entry import Problem
from clr_jax.heads import Tanh
from clr_jax.losses.contrastive import info_nce
from clr_jax.method import Aux, Method, State, check_views
from clr_jax.networks import Network, normalize


def simcse(
    encoder,
    *,
    temperature=0.05,
    hard_weight=0.0,
    head=True,
    head_in_features=False,
    bn_groups=1,
    dtype=None,
) -> Method:
    """Of one view, the sentence passes the encoder twice (unsupervised): the two rows have dropout
    masks of their own. Two views are a sentence and its positive, a third its hard negative
    (supervised: premise, entailment, contradiction). The first finds the second, and not the other
    way round.

    hard_weight: added to the logit of a sentence and its own hard negative (alpha; the paper's
    weight is its exponential). head: a dense layer and tanh behind the encoder, in training;
    head_in_features: also in the features h, as supervised SimCSE has it. `bn_groups`: every method
    is given it; here it does nothing, for there is no batch norm. dtype: of the head's computation.
    """
    if not temperature > 0:
        raise Problem(f'config.method.temperature={temperature}: must be above 0')
    network = Network(encoder, Tanh(dtype) if head else None)
    kept = lambda out: out.z if head_in_features else out.h

    def sentences(batch):
        views = batch['views']
        if len(views) == 1:
            return (*views, *views)
        check_views(batch, 3 if len(views) == 3 else 2)
        return views

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, sentences(batch)[0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views = sentences(batch)
        outs, stats = networks.apply_views(network, params, state.stats, views, key=key)
        query, positive, *hard = (normalize(out.z) for out in outs)  # [b, d] each
        value = info_nce(
            query, positive, temperature, hard=hard[0] if hard else None, hard_weight=hard_weight
        )
        pair = networks.stack(outs[:2])
        return value, Aux(State(stats), {}, kept(pair), pair.z)  # [b, 2, d]

    def features(params, state, batch):
        out = networks.evaluate(network, params, state.stats, batch['views'][0])
        return {'h': kept(out), 'z': out.z}

    return Method(init, loss, features)
