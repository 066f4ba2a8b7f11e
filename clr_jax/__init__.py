"""clr_jax: self-supervised contrastive learning in JAX, exact on any number of devices."""

__version__ = '0.1.0'
