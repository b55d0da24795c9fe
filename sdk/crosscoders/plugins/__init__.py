"""The plugin host: hooks, the records that plugins yield, the registry, and choices of components by name."""
