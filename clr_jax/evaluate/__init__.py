"""Evaluation of frozen features: protocols are named, versioned data, recorded with every number."""
