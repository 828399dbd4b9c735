"""The five stages that DVC runs: paths in, paths out, a page each."""
