"""`python -m crosscoders` is the command `crosscoders`."""

from .cli import main

main(prog_name="crosscoders")
