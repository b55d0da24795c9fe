"""Other libraries' checkpoints: a module for each family, registered in `crosscoders_plugins`."""
