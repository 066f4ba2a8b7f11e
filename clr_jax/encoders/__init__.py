"""Encoders: one file per family; `encoder(x, rows) -> h`, [n, ...] -> [n, d]."""
