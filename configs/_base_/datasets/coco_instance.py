# COCO 2017 with the multi-scale training of DETR and Sparse R-CNN. The folder is data/coco, or what
# the environment variable COCO_ROOT says.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

data_root = '{{$COCO_ROOT:data/coco}}'
data_roots = dict(COCO_ROOT=data_root)  # by the variable, which an error can name then
# The shorter side; the longer is at most 1333.
resize = dict(
    type='RandomChoiceResize',
    scales=[(side, 1333) for side in range(480, 801, 32)],
    keep_ratio=True,
)
resize_before_crop = dict(
    type='RandomChoiceResize', scales=[(side, 1333) for side in (400, 500, 600)], keep_ratio=True
)
crop = dict(
    type='RandomCrop',
    crop_type='absolute_range',
    crop_size=(384, 600),
    allow_negative_crop=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[resize], [resize_before_crop, crop, resize]]),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

# For `mim test … --tta`: boxes and masks from three scales, each flipped too.
tta_model = dict(type='swin_backbone.engine.tta.RoITTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=scale, keep_ratio=True)
                for scale in [(1333, 800), (1067, 640), (1600, 960)]
            ],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
                        *('flip', 'flip_direction'),
                    ),
                )
            ],
        ],
    ),
]
