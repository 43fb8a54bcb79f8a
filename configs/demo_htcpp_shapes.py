# HTC++ in little: the demo's detector with a hybrid task cascade, its semantic branch and global
# attention after the last stage; the same widths and images, a deeper backbone, a longer schedule.
_base_ = 'demo_mask_rcnn_shapes.py'

width = 64
norm_cfg = dict(type='BN')
thresholds = (0.5, 0.6, 0.7)
mask_head = dict(
    type='HTCMaskHead',
    num_convs=2,
    in_channels=width,
    conv_out_channels=width,  # what one stage hands to the next is added to RoI features
    num_classes=4,
    norm_cfg=norm_cfg,
    loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
)
model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(pad_seg=True),
    backbone=dict(depths=(2, 2, 4), global_attention=True),
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        semantic_fusion=('mask',),  # boxes learn without, and in less time
        interleaved=True,
        mask_info_flow=True,
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type='Shared2FCBBoxHead',
                in_channels=width,
                fc_out_channels=256,
                roi_feat_size=7,
                num_classes=4,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[xy, xy, wh, wh]
                ),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for xy, wh in [(0.1, 0.2), (0.05, 0.1), (0.033, 0.067)]
        ],
        # Only between stages, and so not in the first, is anything carried over.
        mask_head=[dict(mask_head, with_conv_res=stage > 0) for stage in range(3)],
        semantic_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=1),
            out_channels=width,
            featmap_strides=[4],
        ),
        # At a quarter of the image: its shapes are small.
        semantic_head=dict(
            type='FusedSemanticHead',
            num_ins=3,
            fusion_level=0,
            seg_scale_factor=1 / 4,
            num_convs=2,
            in_channels=width,
            conv_out_channels=width,
            num_classes=6,  # 0 is free, 1 the ground, the others are the shapes
            norm_cfg=norm_cfg,
            loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2),
        ),
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou
                ),
                sampler=dict(type='RandomSampler', num=24, pos_fraction=0.33),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou in thresholds
        ]
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_prefix=dict(seg='annotations/training/'),
        pipeline=train_pipeline,
    ),
)

iterations = 900
train_cfg = dict(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.999)))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, T_max=iterations - 100),
]
