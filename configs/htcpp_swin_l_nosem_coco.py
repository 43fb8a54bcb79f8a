# HTC++, Swin-L from ImageNet-22K, 6x, without the semantic branch: no COCO-Stuff is needed.
_base_ = 'htcpp_swin_l_coco.py'

model = dict(
    data_preprocessor=dict(pad_seg=False),
    roi_head=dict(semantic_roi_extractor=None, semantic_head=None),
)
train_pipeline = [
    dict(step, with_seg=False) if step['type'] == 'LoadAnnotations' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(_delete_=True, img='train2017/'),
        pipeline=train_pipeline,
    )
)
