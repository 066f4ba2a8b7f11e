"""Methods: one file each, a factory named like the file that returns a `clr_jax.method.Method`."""
