"""Architectures: tables of which latents read and write which sites."""
