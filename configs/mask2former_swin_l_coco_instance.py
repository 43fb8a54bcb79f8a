# Mask2Former for instances, Swin-L from ImageNet-22K at 384 × 384, 200 queries, 100 epochs: mmdet's
# recipe for Swin-S, with what its panoptic one for Swin-L has.
_base_ = [
    'mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py',
    '_base_/models/weights.py',
    '_base_/runtime/swin.py',
]

model = dict(
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=192,
        num_heads=[6, 12, 24, 48],
        window_size=12,
        init_cfg=dict(checkpoint={{_base_.weights.large_22k_384}}),
    ),
    panoptic_head=dict(num_queries=200, in_channels=[192, 384, 768, 1536]),
)

data_root = '{{$COCO_ROOT:data/coco}}'
data_roots = dict(COCO_ROOT=data_root)  # by the variable, which an error can name then
# Sixteen GPUs with one image each; mmdet's config also asks for the panoptic maps, which it does
# not read.
train_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix=dict(_delete_=True, img='train2017/')),
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, data_prefix=dict(_delete_=True, img='val2017/'))
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

max_iters = 737500
param_scheduler = dict(end=max_iters, milestones=[655556, 710184])
# Validation every 5000 iterations; beyond the last such one, at the very end.
train_cfg = dict(max_iters=max_iters, dynamic_intervals=[(735001, max_iters)])
