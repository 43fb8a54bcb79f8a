# ADE20K, crops of 512 × 512, two a GPU. The folder is data/ade/ADEChallengeData2016, or what the
# environment variable ADE20K_ROOT says.
_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/datasets/ade20k.py'

data_root = '{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}'
data_roots = dict(ADE20K_ROOT=data_root)  # by the variable, which an error can name then
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

# Multi-scale testing (--tta): ratios of 2048 × 512, as officially; mmseg's own pipeline would
# take them of each image's own size.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
