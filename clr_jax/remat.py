"""Blocks of an encoder that the backward pass computes again, in place of keeping what they said
(Chen et al., 2016; arXiv:1604.06174)."""

import flax.linen as nn
import jax

from clr_jax.entry import known

# what is kept beside the input of a block: nothing, or its products with kernels
POLICIES = {'full': None, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def recomputed(block, policy: str, scanned: bool = True):
    """The class `block` of modules under a policy of `POLICIES`, or as it is: ''. scanned: as the body
    of a scan, where nothing need keep the compiler from making one of both computations."""
    if not policy:
        return block
    known([policy], POLICIES, 'encoder.remat')
    return nn.remat(block, policy=POLICIES[policy], prevent_cse=not scanned)
