# Mask R-CNN with a little Swin, trained from scratch in minutes on two CPU cores. Everything is
# scaled down from the usual recipe to images of 128 × 128: fewer and narrower layers, fewer RoIs;
# batch normalisation in neck and heads makes up for the missing pretraining.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(
    imports=[
        'swin_backbone',
        'swin_backbone.engine.runner',
        'swin_backbone.engine.quiet',
        'swin_backbone.demo.detection',
    ]
)

width = 64
classes = 4
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=48,
        depths=(1, 2, 2),
        num_heads=(2, 4, 8),
        strides=(4, 2, 2),
        out_indices=(0, 1, 2),
        window_size=8,
        drop_path_rate=0.0,
        init_cfg=dict(type='Xavier', layer='Linear'),
    ),
    neck=dict(in_channels=[48, 96, 192], out_channels=width, num_outs=3, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            featmap_strides=[4, 8, 16],
            out_channels=width,
            finest_scale=28,
            roi_layer=dict(sampling_ratio=1),
        ),
        bbox_head=dict(
            in_channels=width,
            fc_out_channels=256,
            num_classes=classes,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(
            featmap_strides=[4, 8, 16],
            out_channels=width,
            finest_scale=28,
            roi_layer=dict(sampling_ratio=1),
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=width,
            conv_out_channels=width // 2,
            num_classes=classes,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.33)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

dataset_type = 'ShapesDetection'
data_root = 'data/shapes/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128)),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_training.json',
        data_prefix=dict(img='images/training/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_validation.json',
        data_prefix=dict(img='images/validation/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_validation.json',
    metric=['bbox', 'segm'],
)
test_evaluator = val_evaluator

iterations = 700
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5),
    paramwise_cfg=dict(
        norm_decay_mult=0, custom_keys=dict(relative_position_bias_table=dict(decay_mult=0))
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, T_max=iterations - 50),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=250, max_keep_ckpts=2),
    logger=dict(interval=50),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
