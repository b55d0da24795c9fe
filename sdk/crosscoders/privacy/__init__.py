"""What the user's files say of the user's machine, and what of it they share.

`local` finds the local paths in a config and puts digests in their place; `home` keeps things in the user's home;
`configs` writes configs without paths, and compares them with later ones.
"""
