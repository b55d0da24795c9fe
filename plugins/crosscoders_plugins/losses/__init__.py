"""Losses: how latents are kept sparse."""
