"""Barlow Twins (Zbontar et al., 2021; arXiv:2103.03230): the two views' embeddings agree in each
dimension, and no dimension repeats another. There are no negatives and no asymmetry."""

from clr_jax import losses, networks
