"""mmpretrain's Swin Transformer V2, in a process of its own (see peers.py).

``python tests/peers_v2.py FOLDER`` reads ``case_*.pth`` there, each with arguments, weights in the
names of this package and an input, and writes ``result_*.pth``: the peer's feature maps, and the
gradients of their sum, weighted as the case says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from peers import ROOT, hide_transformers, reach_those_apart
from torch import Tensor


def run(cases: list[dict], folder: Path) -> list[dict[str, Tensor]]:
    """Runs this file; for each case outputs and gradients, by the names of this package."""
    for i, case in enumerate(cases):
        torch.save(case, folder / f'case_{i}.pth')
    command = [sys.executable, '-W', 'ignore', __file__, str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT), environment.get('PYTHONPATH', '')])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f'result_{i}.pth') for i in range(len(cases))]


def result_of(case: dict) -> dict[str, Tensor]:
    from mmpretrain.models.backbones import SwinTransformerV2

    model = SwinTransformerV2(**case['arguments']).double()
    model.eval()  # which returns nothing
    weights = case['weights']
    missing, unexpected = model.load_state_dict(weights, strict=False)
    derived = ('relative_position_index', 'relative_coords_table')
    assert not unexpected and all(name.endswith(derived) for name in missing), (missing, unexpected)
    x = case['input'].requires_grad_()
    outs = model(x)
    total = sum((o * w).sum() for o, w in zip(outs, case['output_weights'], strict=True))
    parameters = dict(model.named_parameters())
    wanted = [x, *(parameters[name] for name in weights)]
    names = ['input', *weights]
    return {f'output {i}': out.detach() for i, out in enumerate(outs)} | dict(
        zip(names, torch.autograd.grad(total, wanted), strict=True)
    )


if __name__ == '__main__':
    reach_those_apart()
    hide_transformers()
    for case in sorted(Path(sys.argv[1]).glob('case_*.pth')):
        result = result_of(torch.load(case))
        torch.save(result, case.with_name(case.name.replace('case', 'result')))
