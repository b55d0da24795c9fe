"""Latents for Neuronpedia: its bulk layout, the bodies of its API, and SAEDashboard's batches, all checked offline."""
