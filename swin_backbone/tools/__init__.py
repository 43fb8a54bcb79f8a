"""Tools for the command line and for scripts; training uses none of them."""
