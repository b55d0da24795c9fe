"""What models are to this package: documents, tokens, the adapter interface, and pairing of tokenizers."""
