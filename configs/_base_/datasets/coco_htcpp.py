# COCO 2017 for HTC++: InstaBoost, and the shorter side anywhere from 400 to 1400 with the longer at
# most 1600. The semantic branch learns COCO-Stuff's maps, in stuffthingmaps/ beside the images.
# SWIN_INSTABOOST=off in the environment trains without InstaBoost.
_base_ = 'coco_instance.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    # It moves polygons, and therefore comes before the masks are made. Its arguments are at their
    # defaults, which are its authors'.
    dict(type='InstaBoost'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='RandomResize', scale=[(1600, 400), (1600, 1400)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
if '{{$SWIN_INSTABOOST:on}}' == 'off':
    del train_pipeline[1]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(seg='stuffthingmaps/train2017/'),
        pipeline=train_pipeline,
    )
)

# For `mim test … --tta`: scales of the training's range, each flipped too.
tta_scales = [(1600, side) for side in (600, 800, 1000, 1200, 1400)]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [
    dict(type='Resize', scale=scale, keep_ratio=True) for scale in tta_scales
]
