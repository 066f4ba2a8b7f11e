"""Losses: pure functions of arrays, exact over the global batch inside `parallel.shard`, plain
functions outside it."""
