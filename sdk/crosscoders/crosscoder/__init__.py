"""The crosscoder itself: sites, wiring, latents, gates, the module, and how it is built and initialised."""
