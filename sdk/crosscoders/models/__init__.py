"""Models as this package sees them: documents, tokens, the adapter interface, and pairing of tokenizers."""
