"""The interface of losses, and the base of losses that select latents."""
