"""Losses, which decide how latents are kept sparse."""
