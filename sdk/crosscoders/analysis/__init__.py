"""A study, which is a crosscoder with its models and tokens, and the analyses that run on it."""
