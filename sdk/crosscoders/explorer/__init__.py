"""The explorer: a folder of pages that shows every latent of a crosscoder, from a disk and without a server."""
