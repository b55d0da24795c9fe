"""Other libraries' checkpoints: one module for each family."""
