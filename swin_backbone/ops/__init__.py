"""Functions on tensors, one folder an op: no modules, no configs, no framework."""
