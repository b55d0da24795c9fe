"""The interface of losses, and the base of those that select latents."""
