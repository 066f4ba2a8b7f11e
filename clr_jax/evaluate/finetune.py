"""Evaluation by training: the encoder of a run and a new classifier on few labels, or on all."""

import math
import os
from typing import NamedTuple

import jax

from clr_jax import config as configs
from clr_jax import parallel
from clr_jax.entry import Problem
from clr_jax.evaluate.features import extract, forward
from clr_jax.train import fit, restore


class Finetune(NamedTuple):
    """SimCLR's semi-supervised protocol (Chen et al., 2020; arXiv:2002.05709, appendix B.5), in its
    batch size only smaller: Nesterov SGD without warm-up and weight decay, on random crops and
    flips; here with a cosine.

    Crops and flips are those of the run's first views, since not every data set bears the published
    ones. Few examples would give few steps of a small rate, which `min_steps` makes more. Published
    recipes in every detail are configs, such as configs/simclrv2_finetune_imagenet.py.
    """

    version: int = 1
    method: str = 'finetune'
    optimizer: str = 'sgd'
    learning_rate: float = 0.05  # at a batch of 256, in proportion to it
    epochs: float = 30.0
    few_epochs: float = 60.0  # with up to `few` of all labels
    few: float = 0.02
    min_steps: int = 500
    batch_size: int = 256  # or as many examples as there are
    layer_decay: float = 1.0


