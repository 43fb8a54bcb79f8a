"""Token-wise operations between matrix products: layer norm, residual, drop path, GELU."""
