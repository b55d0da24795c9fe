"""Analyses, which turn a crosscoder and its models into a report."""
