"""What the command line, and scripts, use: nothing here takes part in training."""
