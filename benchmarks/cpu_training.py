"""A training step of Swin-T on a CPU: ``python benchmarks/cpu_training.py``."""

import cpu
import peers

if __name__ == '__main__':
    cpu.main(
        'cpu_training',
        'Swin-T, forward and backward pass',
        peers.training_step,
        (2, 3, 512, 512),
        training=True,
    )
