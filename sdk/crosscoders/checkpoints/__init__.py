"""Crosscoders on disk and on the Hub.

Our own: `checkpoint` saves, loads, compares shapes, `description` is `config.json`, `tensors` weights in one or
several files, `card` is the README, `hub` the transfer. Other libraries': `formats` is the interface, `source` what can
be read from, `blueprint` what a format says of its files, `assemble` makes a crosscoder of that, and `pretrained` puts
it all together.
"""
