"""The plugin host: hooks, the records that plugins hand over, the registry, and choices of components by name."""
