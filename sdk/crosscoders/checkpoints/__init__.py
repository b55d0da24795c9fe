"""Crosscoders on disk and on the Hub: our files, the card, and the interface of other formats."""
