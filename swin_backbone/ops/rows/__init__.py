"""What happens to tables of tokens between products: norms, residuals, drop path, GELU."""
