"""The data path: a view is a pure function of (seed, epoch, example index, view number)."""
