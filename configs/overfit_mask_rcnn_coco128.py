"""Mask R-CNN with a small Swin learns eight real images by heart: a check of the whole chain.

From scratch, without augmentation, on the first eight annotated images of COCO train2017; box AP
on those same eight must pass 0.5 (``docs/results.md``). Any COCO dataset with ``images/`` and
``annotations/instances.json`` will do; the environment variable SWIN_COCO128 says where it is.
"""

_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']

custom_imports = dict(
    imports=['swin_backbone', 'swin_backbone.engine.runner', 'swin_backbone.engine.quiet']
)

# Half of Swin-T's width and a third of its blocks, and heads to go with it: sized for CPU cores.
embed_dims = 48
width = 64
num_rois = 64

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=embed_dims,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[embed_dims * 2**i for i in range(4)], out_channels=width),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        # Half of the usual size: images are, too.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_convs=2),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=num_rois)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

load_image = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(384, 256), keep_ratio=True),
]
# The evaluator takes the ground truth from the samples, so that it covers these images alone.
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')

images = dict(
    type='CocoDataset',
    data_root='{{$SWIN_COCO128:data/coco128}}',
    ann_file='annotations/instances.json',
    data_prefix=dict(img='images/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    indices=8,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(pipeline=[*load_image, dict(type='PackDetInputs')], **images),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=[*load_image, dict(type='PackDetInputs', meta_keys=meta_keys)], **images),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

iterations = 600
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=50, end=iterations),
]

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=iterations // 2, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
