"""Circuits: a model with latents in place of its MLPs, and which of them make which others and the next token."""
