"""Fetches a file, as a process of a distributed job if a rank is given.

fetching.py URL [RANK PORT]
"""

from __future__ import annotations

import os
import sys

import torch.distributed


def main() -> None:
    url, *job = sys.argv[1:]
    from swin_backbone import CheckpointError
    from swin_backbone.weights import download, read_checkpoint

    download.RETRIES = 0
    if job:
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=job[1])
        torch.distributed.init_process_group('gloo', rank=int(job[0]), world_size=2)
    try:
        print('loaded', read_checkpoint(url)['a'].sum().item())
    except CheckpointError as error:
        print('refused', str(error).splitlines()[0])
    if job:
        torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main()
