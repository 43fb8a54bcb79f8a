"""Functions on tensors, one folder for each op; no modules, no configs, no framework."""
