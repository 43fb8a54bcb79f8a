"""Weights as NumPy arrays, as in the pickles of detectron2 and Mask2Former."""

from __future__ import annotations

import io
import pickle

import numpy as np
import official
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.weights import convert, convert_file, describe, read_checkpoint
from swin_backbone.weights.placeholders import Placeholder
from swin_backbone.weights.rebuild import allowed_classes, allowed_globals
from swin_backbone.weights.unpickler import Unpickler

GEOMETRY = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2)
KEY = 'layers.0.blocks.0.attn.qkv.weight'
PROTOCOLS = (2, 3, 4, 5)


def official_weights() -> dict[str, Tensor]:
    weights = official.random_state_dict(8, (1, 1, 1, 1), (1, 1, 2, 2), 2)
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def published(weights: dict, prefix: str = '') -> dict:
    """As detectron2's converters write it."""
    model = {prefix + key: value for key, value in weights.items()}
    return {'model': model, '__author__': 'third_party', 'matching_heuristics': True}


def loaded(path, **options) -> Tensor:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **options)
    model = SwinTransformer(**GEOMETRY, init_cfg=init_cfg)
    model.init_weights()
    return model.stages[0].blocks[0].attn.w_msa.qkv.weight.detach()


def arrays(weights: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in weights.items()}


def renamed(pickled: bytes) -> bytes:
    """Pickled by NumPy 1 if this is NumPy 2, and the other way round."""
    old, new = b'numpy.core.', b'numpy._core.'
    old, new = (new, old) if new in pickled else (old, new)
    if pickled[1] == 2 or pickled[1] == 3:  # names are lines
        return pickled.replace(old, new)
    changed = b''
    for part in pickled.split(old)[:-1]:
        changed += part[:-1] + bytes([part[-1] + len(new) - len(old)]) + new
    return changed + pickled.split(old)[-1]


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('kind', ['arrays', 'tensors', 'parameters'])
def test_detectron2s_pickles_load(tmp_path, protocol, prefix, kind):
    weights = official_weights()
    make = {
        'arrays': lambda v: v.numpy(),
        'tensors': lambda v: v,
        'parameters': lambda v: nn.Parameter(v, v.is_floating_point()),
    }[kind]
    content = published({key: make(value) for key, value in weights.items()}, prefix)
    (tmp_path / 'model_final.pkl').write_bytes(pickle.dumps(content, protocol))
    assert torch.equal(loaded(tmp_path / 'model_final.pkl'), weights[KEY])
    read = read_checkpoint(tmp_path / 'model_final.pkl')
    assert (read['__author__'], read['matching_heuristics']) == ('third_party', True)
    for key, value in weights.items():
        ours = read['model'][prefix + key]
        assert torch.equal(ours, value) and ours.dtype == value.dtype


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_both_spellings_of_numpys_names(tmp_path, protocol):
    weights = official_weights()
    pickled = pickle.dumps(published(arrays(weights)), protocol)
    if protocol > 3:  # in frames, whose lengths change
        pickled = pickled.replace(pickled[:2] + b'\x95' + pickled[3:11], pickled[:2], 1)
    other = renamed(pickled)
    assert (b'numpy._core.' in pickled) != (b'numpy._core.' in other)
    (tmp_path / 'a.pkl').write_bytes(other)
    assert torch.equal(loaded(tmp_path / 'a.pkl'), weights[KEY])


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_any_dtype_and_order(protocol):
    """Arrays without objects are read as NumPy unpickles them."""
    base = np.arange(24).reshape(2, 3, 4)
    codes = ('? i1 i2 i4 i8 u1 u2 u4 u8', 'f2 f4 f8 c8 c16 >f4 >i8', 'S3 U5 >U5 f4 f4')
    arrays = [base.astype(code) for code in ' '.join(codes).split()]
    arrays += [base.T, base[:, ::2], np.asfortranarray(base), base[:0], np.array(3.5), base[..., 0]]
    scalars = [array.flatten()[1] for array in arrays if array.size > 1]
    content = {
        'arrays': arrays,
        'again': arrays[:3],
        'scalars': [*scalars, np.str_(''), np.bytes_(b'')],
    }
    read = Unpickler(
        io.BytesIO(pickle.dumps(content, protocol)), allowed_globals(), allowed_classes
    ).load()
    expected = pickle.loads(pickle.dumps(content, protocol))
    for name in content:
        for ours, theirs in zip(read[name], expected[name], strict=True):
            assert type(ours) is type(theirs)  # NumPy swaps the bytes, where it copies them
            assert ours.dtype.newbyteorder('=') == theirs.dtype.newbyteorder('=')
            assert ours.shape == theirs.shape and np.array_equal(ours, theirs)
    assert read['arrays'][0] is read['again'][0]


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize(
    'array',
    [
        np.array([{}, print], dtype=object),
        np.zeros(2, dtype=[('a', 'f4'), ('b', 'O')]),
        np.zeros(2, dtype=[('a', 'f4')]),
        np.array(['2026-01-01'], dtype='M8[D]'),
        np.zeros(2, 'V4'),
        np.ma.masked_array([1, 2], [True, False]),
        np.random.default_rng(0),
    ],
    ids=lambda value: str(getattr(value, 'dtype', value)),
)
def test_arrays_of_other_dtypes_are_not_read(tmp_path, protocol, array):
    content = published(arrays(official_weights())) | {'other': array, 'more': [array]}
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    assert loaded(tmp_path / 'a.pkl').shape == (24, 8)
    read = read_checkpoint(tmp_path / 'a.pkl')
    assert type(read['other']) is type(read['more'][0])
    assert isinstance(read['other'], Placeholder) and read['other'].module.startswith('numpy')
    content['model'][KEY] = array
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match=rf'refused: its weights .*{KEY} \(numpy'):
        read_checkpoint(tmp_path / 'a.pkl')


@given(
    st.sampled_from(['f2', 'f4', 'f8', '>f4', 'i8', '?']),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from('CF'),
    st.sampled_from(PROTOCOLS),
)
def test_arrays_of_any_shape(code, shape, order, protocol):
    array = np.asarray(
        np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(code), order=order
    )
    data = pickle.dumps([array, array], protocol)
    ours, again = Unpickler(io.BytesIO(data), allowed_globals(), allowed_classes).load()
    assert ours is again and ours.dtype == array.dtype and np.array_equal(ours, array)
    assert ours.shape == array.shape and ours.flags.writeable


# --- other files ----------------------------------------------------------------------------------


@pytest.mark.parametrize('container', ['', 'model', 'state_dict', 'model_state_dict', 'teacher'])
@pytest.mark.parametrize('layout', ['microsoft', 'openmmlab', 'transformers'])
def test_arrays_in_torchs_files(tmp_path, container, layout):
    weights = official_weights()
    content = arrays(convert(weights, layout))
    torch.save({container: content, 'epoch': 3} if container else content, tmp_path / 'a.pth')
    assert torch.equal(loaded(tmp_path / 'a.pth'), weights[KEY])


def test_doubles_of_the_other_byte_order_and_shared_arrays(tmp_path):
    weights = arrays(official_weights())
    swapped = {k: v.astype(v.dtype.newbyteorder('>')) for k, v in weights.items()}
    swapped['layers.0.blocks.0.norm2.weight'] = swapped['layers.0.blocks.0.norm1.weight']
    torch.save({'model': swapped}, tmp_path / 'a.pth')
    model = read_checkpoint(tmp_path / 'a.pth')['model']
    assert model[KEY].dtype == torch.float32
    assert torch.equal(loaded(tmp_path / 'a.pth'), torch.from_numpy(weights[KEY]))
    assert model['layers.0.blocks.0.norm2.weight'] is model['layers.0.blocks.0.norm1.weight']


def test_arrays_that_are_not_weights_stay_arrays(tmp_path):
    content = {
        'state_dict': official_weights(),
        'meta': {'palette': np.arange(6), 'bias': np.ones(2)},
        'anchors': {'a.scores': np.ones(3, np.float32)},
    }
    torch.save(content, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert isinstance(read['meta']['palette'], np.ndarray)
    assert isinstance(read['meta']['bias'], np.ndarray)
    assert isinstance(read['anchors']['a.scores'], np.ndarray)


def test_arrays_larger_than_the_file_are_rejected(tmp_path):
    """An array of eight GiB in a file of 300 bytes is not a weight."""

    class Reserving:
        def __reduce__(self):
            return np.ones(1).__reduce__()[0], (np.ndarray, (1 << 31,), b'f')

    torch.save({'model': {'stages.0.blocks.0.norm1.weight': Reserving()}}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='found a ndarray'):
        read_checkpoint(tmp_path / 'a.pth')


def test_dtypes_without_a_torch_equivalent(tmp_path):
    weights = arrays(official_weights())
    weights[KEY] = weights[KEY].astype(np.longdouble)
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(published(weights)))
    with pytest.raises(CheckpointError, match=rf'{KEY}: found a ndarray'):
        read_checkpoint(tmp_path / 'a.pkl')


def test_nan_in_arrays_is_warned_of(tmp_path, monkeypatch):
    from swin_backbone.weights import tensors

    said = []
    monkeypatch.setattr(tensors, 'print_log', lambda text, **_: said.append(text))
    weights = arrays(official_weights())
    weights[KEY][0, 0] = np.nan
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(published(weights)))
    read_checkpoint(tmp_path / 'a.pkl')
    assert said == [f'{tmp_path / "a.pkl"}: NaN or infinity in 1 weights: {KEY}']


def test_a_whole_detector_converts(tmp_path):
    weights = official_weights()
    content = published(arrays(weights), 'backbone.')
    content['model']['sem_seg_head.predictor.weight'] = np.ones((2, 2), np.float32)
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content))
    described = describe(tmp_path / 'a.pkl')
    assert (described.container, described.prefix, described.format) == (
        *('model', 'backbone.', 'microsoft'),
    )
    convert_file(tmp_path / 'a.pkl', tmp_path / 'b.pth', to='detectron2')
    assert torch.equal(loaded(tmp_path / 'b.pth'), weights[KEY])


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('keep', [0.01, 0.3, 0.6, 0.99])
def test_truncated_pickles(tmp_path, protocol, keep):
    whole = pickle.dumps(published(arrays(official_weights())), protocol)
    (tmp_path / 'a.pkl').write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match='cut short'):
        read_checkpoint(tmp_path / 'a.pkl')


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('content', [3, [], {}, {'a': 3}, [np.ones(3)], {'labels': ['a', 'b']}])
def test_other_pickles_are_no_checkpoints(tmp_path, content, protocol):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match=r'a\.pkl is no checkpoint: a pickle without tensors'):
        read_checkpoint(tmp_path / 'a.pkl')
