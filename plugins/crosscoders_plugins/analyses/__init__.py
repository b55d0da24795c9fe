"""Analyses: from a crosscoder and its models to a report."""
