# 300 epochs of 8 × 128 images: 20 of linear warm-up, then a cosine, both by the iteration. AdamW
# decays neither position embeddings nor norms nor biases.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

optim_wrapper = dict(
    type='swin_backbone.engine.amp.amp_where_possible', clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=280,
        eta_min=1e-5,
        begin=20,
        end=300,
        convert_to_iter_based=True,
    ),
]
