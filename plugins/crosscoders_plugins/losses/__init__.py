"""Losses, which decide how latents are kept sparse: a module for each, registered in `crosscoders_plugins`.

The bases of those that select, AuxK's formula and the inference threshold are in the host, in `crosscoders.losses`.
"""
