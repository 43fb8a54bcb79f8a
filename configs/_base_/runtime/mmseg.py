# The file by its path: OneDL's mmengine does not find 'mmseg::'.
_base_ = [__import__('mmseg').__path__[0] + '/.mim/configs/_base_/default_runtime.py', 'swin.py']
