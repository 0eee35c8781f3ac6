"""A photo before any network: found, read, made square, assigned to a side of the split."""
