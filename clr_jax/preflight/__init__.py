"""What is known of a run before a pod is booked: `python -m clr_jax.preflight`."""
