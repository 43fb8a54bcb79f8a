# With the hook, a checkpoint of another number of classes is an error and not a random classifier.
_base_ = ['mmpretrain::_base_/default_runtime.py', 'swin.py']

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
custom_hooks = [dict(type='swin_backbone.engine.check_classes.ClassCheckHook')]
