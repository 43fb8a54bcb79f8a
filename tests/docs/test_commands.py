"""Every command in README, CONTRIBUTING and docs/ is run, or is one that exists.

``TABLE`` has an entry for each: a new command without one fails, and so does an entry without its
command. ``Run`` runs it in a folder of stand-ins (stand_ins.py) for the files that the pages call a
reader's own; ``Parse`` says why that cannot be, and what exists is checked all the same
(command_lines.py): the subcommand, options, config, catalog name, script, target or extra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import click
import pytest
from blocks import ROOT, all_blocks, words
from click.testing import CliRunner
from command_lines import parse
from shell import Shell

from swin_backbone.cli.commands import commands

# One worker makes the stand-ins.
pytestmark = pytest.mark.xdist_group('docs')


@dataclass(frozen=True)
class Run:
    """Run by these tests.

    Attributes:
        exit_code: What the page says, or what follows from the stand-ins.
        prints: What has to be in the output.
        slow: Whether it takes more than seconds.
    """

    exit_code: int = 0
    prints: str = ''
    slow: bool = False


@dataclass(frozen=True)
class Parse:
    """Parsed only, because ``why``."""

    why: str


COCO = Parse('COCO, and days of a GPU')
ADE20K = Parse('ADE20K, and days of a GPU')
IMAGENET = Parse('ImageNet')
MACHINES = Parse('several machines or a slurm cluster')
INSTALLS = Parse('installs packages')
MINUTES = Parse('takes minutes to hours')
PAGE = Parse('does not end; tests/tools/page and tests/cli/test_serve.py start it, and post images')
FOLLOWED = Parse('run by test_fine_tuning.py, which follows the page')

TABLE: dict[str, Run | Parse] = {
    # The demo is run by tests/demo, the package is built by tests/test_packaging.py.
    'make demo': MINUTES,
    'make test': MINUTES,
    'make lint': MINUTES,
    'make dist': MINUTES,
    'make docs': Parse('installs packages; test_site.py builds the pages where it was run'),
    # tests/test_newcomer.py installs the wheel with these extras.
    "pip install '.[det,seg,lite]'": INSTALLS,
    'pip install torch torchvision': INSTALLS,
    'pip uninstall -y mmcv-lite': INSTALLS,
    'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary mmcv mmcv==2.1.0': INSTALLS,
    "pip install '.[det,seg]'": INSTALLS,
    'pip install onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation onedl-mim': (
        INSTALLS
    ),
    'pip install --no-deps .': INSTALLS,
    "pip install 'swin_backbone[export]'": INSTALLS,
    "pip install 'swin_backbone[page,det]'": INSTALLS,
    "pip install 'swin_backbone[visual]'": INSTALLS,
    "pip install 'swin_backbone[cam]'": INSTALLS,
    "pip install 'swin_backbone[instaboost]'": INSTALLS,
    # The command line.
    'swin-backbone doctor': Run(prints='SwinTransformer'),
    'swin-backbone configs list': Run(prints='upernet_swin_t_ade20k'),
    'swin-backbone configs list --task segmentation': Run(prints='upernet_swin_t_ade20k'),
    'swin-backbone configs show mask_rcnn_swin_t_coco --resolved': Run(prints='max_epochs=36'),
    'swin-backbone configs copy mask_rcnn_swin_t_coco mine.py': Run(prints='mine.py'),
    'swin-backbone configs copy mask_rcnn_swin_t_1x_coco my_config.py': Run(
        3,
        'is there already',  # a stand-in
    ),
    'swin-backbone data config.py': Run(prints='nothing is wrong'),
    'swin-backbone data config.py --only train --images 500 --pictures 8 -o pictures': Run(
        prints='pictures/train_3.png'
    ),
    'swin-backbone complexity upernet_swin_t_ade20k': Run(prints='59.94 M'),
    'swin-backbone complexity my_config.py --shape 3 640 640 --json': Run(prints='flops_executed'),
    'swin-backbone export upernet_swin_t_ade20k iter_160000.pth --part model --to onnx --dynamic '
    '-o upernet.onnx': Parse('Swin-T takes minutes; export.md has it with a smaller segmentor'),
    'swin-backbone export config.py epoch_12.pth --to onnx --dynamic -o swin.onnx': Run(
        prints='swin.onnx', slow=True
    ),
    'swin-backbone export config.py epoch_12.pth --to torch-export --size 800 1216 -o swin.pt2': (
        Run(prints='swin.pt2', slow=True)
    ),
    'swin-backbone export segmentor.py iter_160000.pth --part model --to onnx --dynamic --int8': (
        Run(prints='int8.onnx', slow=True)
    ),
    'swin-backbone show': Run(prints='pictures/attention.png'),
    'swin-backbone show street.jpg --config config.py --weights epoch_12.pth --html report.html': (
        Run(prints='report.html')
    ),
    'swin-backbone show street.jpg --config config.py --weights epoch_12.pth --cam 0': (
        Run(prints='pictures/cam.png')
    ),
    'swin-backbone show street.jpg --config config.py --weights epoch_12.pth --what cam '
    '--cam-method hirescam': Run(3, "pip install 'swin_backbone[cam]'"),  # which is not there
    'swin-backbone show street.jpg --config config.py --weights epoch_12.pth --point 320 200 '
    '--html report.html': Run(prints='report.html'),
    'swin-backbone show data/shapes/images/validation/00015.jpg --config demo_mask_rcnn_shapes '
    '--weights work_dirs/demo/detector/iter_700.pth --stage 1 --point 92 24 --cam 0 '
    '--html report.html': Run(prints='report.html'),
    'swin-backbone plot work_dirs/a work_dirs/b --html curves.html': Run(prints='curves.html'),
    'swin-backbone plot work_dirs/a work_dirs/b -o pictures': Run(prints='pictures'),
    'swin-backbone serve --config mask_rcnn_swin_t_coco --weights epoch_36.pth': PAGE,
    'swin-backbone serve --config mask_rcnn_swin_t_coco --weights epoch_36.pth --open': PAGE,
    'curl --data-binary @street.jpg http://127.0.0.1:7860/predict': PAGE,
    'swin-backbone weights list swin_tiny': Run(prints='swin_tiny_in1k'),
    'swin-backbone weights list swin_large in22k --version 1 --task classification': Run(
        prints='4 of 286 checkpoints'
    ),
    'swin-backbone weights info swin_tiny_in1k': Run(prints='ImageNet-1K'),
    'swin-backbone weights info swin_tiny_in1k --config my_config.py': Run(prints='fits'),
    'swin-backbone weights info official.pth --config w12.py': Run(prints='window 7 to 12'),
    'swin-backbone weights info work_dirs/config/epoch_12.pth': Run(prints='openmmlab'),
    'swin-backbone weights download swin_tiny_in1k': Run(
        prints='swin_tiny_patch4_window7_224.pth'  # which is there
    ),
    'swin-backbone weights convert official.pth --to openmmlab -o mmdet.pth': Run(
        prints='from microsoft to openmmlab'
    ),
    'swin-backbone weights convert official.pth --to transformers -o hf.safetensors': Run(
        prints='from microsoft to transformers'
    ),
    'swin-backbone weights convert work_dirs/my_config/epoch_12.pth --to timm '
    '-o for_timm.safetensors': Run(prints='from openmmlab to timm'),
    'swin-backbone weights join iter_4.pth whole.pth': Run(prints='whole.pth'),
    'swin-backbone weights diff a.pth b.safetensors': Run(prints='0 differ'),
    'swin-backbone weights diff official.pth epoch_12.pth': Run(1, 'microsoft and openmmlab'),
    'swin-backbone weights diff work_dirs/my_config/epoch_12.pth for_timm.safetensors': Run(
        1,
        'not there',  # norms of the outputs, in timm's
    ),
    'swin-backbone weights verify epoch_12.pth': Run(prints='openmmlab'),
    'swin-backbone weights verify hf.safetensors': Run(prints='transformers'),
    # Training and testing; with a reader's own config, by a stand-in of two iterations.
    'mim train mmdet config.py': Run(prints='Iter(train) [2/2]', slow=True),
    'mim test mmdet config.py --checkpoint work_dirs/config/epoch_12.pth': Run(
        prints='coco/segm_mAP', slow=True
    ),
    'mim train mmdet config.py --launcher pytorch --gpus 2': Run(
        prints='Iter(train) [2/2]', slow=True
    ),
    'mim test mmseg config.py --checkpoint iter_160000.pth --launcher pytorch --gpus 2': Run(
        prints='mIoU', slow=True
    ),
    'COCO_ROOT=/data/coco mim train mmdet my_config.py --launcher pytorch --gpus 8': COCO,
    'COCO_ROOT=/data/coco mim train mmdet configs/cascade_swin_l_coco.py --launcher pytorch --gpus '
    '8': COCO,
    'mim train mmdet configs/cascade_swin_l_coco.py': COCO,
    'mim train mmdet configs/cascade_swin_l_coco.py --launcher pytorch --gpus 8': COCO,
    'mim test mmdet configs/cascade_swin_l_coco.py --checkpoint '
    'work_dirs/cascade_swin_l_coco/epoch_36.pth': COCO,
    'mim test mmdet configs/cascade_swin_l_coco.py --checkpoint epoch_36.pth --launcher pytorch '
    '--gpus 8': COCO,
    'mim train mmdet configs/mask_rcnn_swin_t_coco.py --cfg-options '
    'model.backbone.use_checkpoint=True': COCO,
    'mim test mmdet configs/mask_rcnn_swin_t_coco.py --checkpoint '
    'mask_rcnn_swin_t_3x_coco_official': COCO,
    'mim train mmdet configs/htcpp_swin_l_coco.py --launcher pytorch --gpus 8': COCO,
    'SWIN_INSTABOOST=off mim train mmdet configs/htcpp_swin_l_nosem_coco.py': COCO,
    'mim test mmdet configs/htcpp_swin_l_coco.py --checkpoint epoch_72.pth --tta': COCO,
    'mim test mmdet configs/htcpp_swin_l_mstest_coco.py --checkpoint epoch_72.pth': COCO,
    'ADE20K_ROOT=/data/ADEChallengeData2016 mim train mmseg configs/upernet_swin_t_ade20k.py': (
        ADE20K
    ),
    'mim train mmseg configs/upernet_swin_t_ade20k.py --launcher pytorch --gpus 8': ADE20K,
    'mim test mmseg configs/upernet_swin_l_ade20k.py --checkpoint iter_160000.pth --tta': ADE20K,
    'IMAGENET_ROOT=/data/imagenet mim test mmpretrain configs/swin_t_imagenet.py --checkpoint '
    'swin_tiny_in1k': IMAGENET,
    'mim test mmpretrain configs/swin_t_imagenet.py --checkpoint swin_tiny_in1k': IMAGENET,
    'mim train mmdet configs/demo_htcpp_shapes.py --work-dir work_dirs/demo_htcpp': MINUTES,
    'SWIN_COCO128=/data/coco128 mim train mmdet configs/overfit_mask_rcnn_coco128.py': Parse(
        'images of COCO; tests/integration/test_detection.py trains it where they are'
    ),
    # Many machines.
    'torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29500 '
    '--rdzv-id swin-l --max-restarts 3 '
    '"$(python -c \'import mmdet; print(mmdet.__path__[0])\')/.mim/tools/train.py" '
    'configs/cascade_swin_l_coco.py --launcher pytorch --resume --work-dir /shared/swin-l': (
        MACHINES
    ),
    'export MASTER_PORT=29500': MACHINES,
    'srun python "$(python -c \'import mmdet; print(mmdet.__path__[0])\')/.mim/tools/train.py" '
    'configs/cascade_swin_l_coco.py --launcher slurm --resume --work-dir /shared/swin-l': MACHINES,
    # tests/benchmarks runs these at little sizes.
    'python benchmarks/cpu_forward.py': MINUTES,
    'python benchmarks/cpu_training.py': MINUTES,
    'python benchmarks/gpu_attention.py': Parse('a GPU'),
    'python benchmarks/gpu_block.py': Parse('a GPU'),
    'python benchmarks/gpu_backbone.py': Parse('a GPU'),
    'python benchmarks/kept_bytes.py': MINUTES,
    'python benchmarks/gpu_instructions.py': MINUTES,
    'python benchmarks/conversion.py': MINUTES,
    'python benchmarks/soak.py --iterations 2000': MINUTES,
    # docs/fine_tune.md.
    'python make_data.py': FOLLOWED,
    'swin-backbone configs copy demo_mask_rcnn_shapes pretraining.py': FOLLOWED,
    'mim train mmdet pretraining.py --cfg-options train_cfg.max_iters=500 '
    'train_cfg.val_interval=500': FOLLOWED,
    'swin-backbone weights info work_dirs/pretraining/iter_500.pth': FOLLOWED,
    'swin-backbone configs copy demo_mask_rcnn_shapes my_config.py': FOLLOWED,
    'swin-backbone data my_config.py': FOLLOWED,
    'swin-backbone weights info work_dirs/pretraining/iter_500.pth --config my_config.py': FOLLOWED,
    'swin-backbone complexity my_config.py --shape 3 128 128': FOLLOWED,
    'mim train mmdet my_config.py': FOLLOWED,
    'mim test mmdet my_config.py --checkpoint work_dirs/my_config/iter_400.pth': FOLLOWED,
    'mim train mmdet my_config.py --work-dir work_dirs/from_scratch --cfg-options '
    'model.backbone.init_cfg=None': FOLLOWED,
    'python predict.py': FOLLOWED,
}
DOCUMENTED = {command: str(block) for block in all_blocks() for command in block.commands}
PARSED = [command for command, entry in TABLE.items() if entry is not FOLLOWED]
RUN = [
    pytest.param(command, entry, marks=[pytest.mark.slow] if entry.slow else [])
    for command, entry in TABLE.items()
    if isinstance(entry, Run)
]


def test_every_command_has_an_entry():
    missing = [f'{DOCUMENTED[command]}: {command}' for command in DOCUMENTED.keys() - TABLE.keys()]
    assert missing == [], 'add them to TABLE'


def test_every_entry_has_its_command():
    assert sorted(TABLE.keys() - DOCUMENTED.keys()) == []


@pytest.mark.parametrize('command', PARSED)
def test_a_command_exists(command, folder):
    parse(command, folder)


@pytest.mark.parametrize(
    'command',
    [
        'swin-backbone weights guess a.pth',
        'swin-backbone complexity my_config.py --shap 3 640 640',
        'mim trane mmdet config.py',
        'mim train mmdet configs/mask_rcnn_swin_x_coco.py',
        'mim train mmdet config.py --resum-from here',
        'mim train mmdet configs/mask_rcnn_swin_t_coco.py --cfg-options model.backbone.windw=7',
        'mim test mmdet config.py --checkpoint swin_tiny_in3k',
        'make coffee',
        "pip install 'swin_backbone[everything]'",
        'python benchmarks/none.py',
        'python benchmarks/gpu_backbone.py --fastest',
        'srun python train.py configs/cascade_swin_l_coco.py',
        'rm -rf work_dirs',
    ],
)
def test_a_command_that_does_not_exist_is_told(command, folder):
    failures = (Exception, SystemExit, StopIteration)
    with pytest.raises(failures):
        parse(command, folder)


@pytest.mark.parametrize(('command', 'expected'), RUN)
def test_a_command_runs(command, expected, folder, tmp_path):
    if 'mmseg config.py' in command:  # where that is a segmentor's
        (folder / 'config.py').unlink()
        (folder / 'config.py').symlink_to(folder / 'segmentor.py')
    program, *arguments = words(command)[1]
    if program == 'swin-backbone' and not expected.slow:
        # In this process: importing the frameworks takes seconds.
        result = CliRunner().invoke(commands, arguments)
        code, output = result.exit_code, result.output
    else:
        shell = Shell(folder, tmp_path / 'bin', OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='lo')
        done = shell.run(command)
        code, output = done.returncode, done.stdout
    assert code == expected.exit_code, output[-4000:]
    assert expected.prints in output, output[-4000:]


def leaves(group: click.Group, path: str = 'swin-backbone') -> list[str]:
    """Every command of a group by its words."""
    return [
        name
        for word in group.list_commands(click.Context(group))
        for command in [group.get_command(click.Context(group), word)]
        for name in (
            leaves(command, f'{path} {word}')
            if isinstance(command, click.Group)
            else [f'{path} {word}']
        )
    ]


def test_the_page_of_the_command_line_has_every_command():
    page = (ROOT / 'docs/cli.md').read_text()
    for command in leaves(commands):
        assert re.search(rf'^{command}\b', page, re.MULTILINE), command
