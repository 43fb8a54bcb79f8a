"""Inference of Swin-T on a CPU at a detector's size: ``python benchmarks/cpu_forward.py``."""

import cpu
import peers

if __name__ == '__main__':
    cpu.main('cpu_forward', 'Swin-T, inference', peers.forward, (1, 3, 800, 1216), training=False)
