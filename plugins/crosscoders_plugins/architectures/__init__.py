"""Architectures, which say which latents read and write which sites."""
