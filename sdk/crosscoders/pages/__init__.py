"""What pages that open from a disk have in common."""
