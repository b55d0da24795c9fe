"""Token sources: where documents come from."""
