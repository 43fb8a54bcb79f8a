"""The layer of HTC++: its mathematics, its memory, and the backbone with it."""

from __future__ import annotations

import pytest
import torch
from small import randomized
from torch import nn
from torch.nn import functional as F

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer
from swin_backbone.layers import GlobalAttentionBlock
from swin_backbone.weights import convert, load


def layer(**options) -> GlobalAttentionBlock:
    return randomized(GlobalAttentionBlock(24, 4, 48, **options)).double()


def by_torch(block: GlobalAttentionBlock) -> nn.Module:
    """The same of torch's own modules."""
    peer = nn.TransformerEncoderLayer(
        24, 4, 48, dropout=0.0, activation='gelu', batch_first=True, norm_first=True
    ).double()
    with torch.no_grad():
        peer.self_attn.in_proj_weight.copy_(block.qkv.weight)
        peer.self_attn.in_proj_bias.copy_(block.qkv.bias)
    peer.self_attn.out_proj.load_state_dict(block.proj.state_dict())
    peer.norm1.load_state_dict(block.norm1.state_dict())
    peer.norm2.load_state_dict(block.norm2.state_dict())
    peer.linear1.load_state_dict(block.ffn.layers[0][0].state_dict())
    peer.linear2.load_state_dict(block.ffn.layers[1].state_dict())
    return peer


@pytest.mark.parametrize('tokens', [1, 7, 35])
@pytest.mark.parametrize('with_cp', [False, 'attention', 'mlp', 'block'])
def test_is_a_transformer_layer(tokens, with_cp):
    block = layer(with_cp=with_cp)
    peer = by_torch(block)
    x = torch.randn(2, tokens, 24, dtype=torch.float64)
    results = []
    for module in (block, peer):
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        out.square().sum().backward()
        results.append((out, leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(block.qkv.weight.grad, peer.self_attn.in_proj_weight.grad)
    torch.testing.assert_close(block.proj.weight.grad, peer.self_attn.out_proj.weight.grad)
    torch.testing.assert_close(block.ffn.layers[1].weight.grad, peer.linear2.weight.grad)


def test_scale_and_bias_are_options():
    block = layer(qkv_bias=False, qk_scale=0.3)
    x = torch.randn(1, 9, 24, dtype=torch.float64)
    qkv = F.linear(block.norm1(x), block.qkv.weight).view(9, 3, 4, 6)
    query, key, value = qkv.unbind(1)
    weights = torch.einsum('qhc,khc->hqk', 0.3 * query, key).softmax(-1)
    attended = torch.einsum('hqk,khc->qhc', weights, value).reshape(1, 9, 24)
    y = x + block.proj(attended)
    torch.testing.assert_close(block(x), y + block.ffn.layers(block.norm2(y)))


def kept(tokens: int) -> int:
    """Elements that a training step keeps for its backward pass."""
    count = 0

    def pack(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor

    block = randomized(GlobalAttentionBlock(24, 4, 48))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(torch.randn(1, tokens, 24, requires_grad=True))
    return count


def test_memory_grows_with_the_tokens_not_their_pairs():
    few, more, most = kept(256), kept(512), kept(1024)
    assert most - more == 2 * (more - few)
    assert most < 4 * 1024**2  # which the pairs of four heads alone would take


def test_drops_in_training_alone():
    block = layer(drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1)
    x = torch.randn(4, 5, 24, dtype=torch.float64)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_heads_must_divide_the_width():
    with pytest.raises(ArgumentError, match='num_heads=5 does not divide the width 24'):
        GlobalAttentionBlock(24, 5, 48)


IMAGE = (1, 3, 45, 71)  # whose last map is 2 × 3


def test_backbone_starts_as_without_it(small, small_model):
    extended = SwinTransformer(**small, global_attention=True).eval()
    extended.load_state_dict(small_model.state_dict())
    x = torch.randn(IMAGE)
    for ours, plain in zip(extended(x), small_model(x), strict=True):
        assert torch.equal(ours, plain)
    randomized(extended.global_attention)
    *early, last = extended(x)
    *early_plain, last_plain = small_model(x)
    assert all(map(torch.equal, early, early_plain))
    assert not torch.allclose(last, last_plain, atol=1e-2)


def test_layer_stands_between_last_stage_and_its_norm(small):
    model = randomized(SwinTransformer(**small, global_attention=True)).eval().double()
    seen = {}
    model.global_attention.register_forward_hook(lambda _, args, out: seen.update(x=args, y=out))
    out = model(torch.randn(IMAGE, dtype=torch.float64))[-1]
    assert seen['x'][0].shape == (1, 2 * 3, 8 * small['embed_dims'])
    torch.testing.assert_close(model.norm3(seen['y']), out.flatten(2).transpose(1, 2))


@pytest.mark.parametrize('with_cp', [False, True, 'stage', 'attention', 'mlp'])
def test_every_parameter_gets_a_gradient(small, with_cp):
    model = SwinTransformer(**small, global_attention=True, with_cp=with_cp)
    randomized(model)
    sum(out.square().mean() for out in model(torch.randn(IMAGE))).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad.any() for p in model.global_attention.parameters() if p.dim() > 1)


def test_learns_from_its_start(small):
    model = SwinTransformer(**small, global_attention=True)
    model.init_weights()
    block = model.global_attention
    assert not block.proj.weight.any() and not block.ffn.layers[1].weight.any()
    assert block.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    sum(out.square().mean() for out in model(torch.randn(IMAGE))).backward()
    assert block.proj.weight.grad.any() and block.ffn.layers[1].weight.grad.any()


def test_compiles_in_one_graph(small):
    small['depths'] = (1, 1, 1, 1)
    model = randomized(SwinTransformer(**small, global_attention=True)).eval()
    x = torch.randn(IMAGE)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for ours, eager in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(ours, eager)


def test_freezes_with_the_last_stage(small):
    three = SwinTransformer(**small, global_attention=True, frozen_stages=3)
    assert three.global_attention.training
    assert all(p.requires_grad for p in three.global_attention.parameters())
    four = SwinTransformer(**small, global_attention=True, frozen_stages=4).train()
    assert not four.global_attention.training
    assert not any(p.requires_grad for p in four.parameters())


def test_is_no_parameter_without_the_last_output(small):
    full = SwinTransformer(**small, global_attention=True)
    model = SwinTransformer(**small, global_attention=True, out_indices=(0, 2))
    assert not any(name.startswith('global_attention') for name, _ in model.named_parameters())
    keys = {key for key in model.state_dict() if key.startswith('global_attention')}
    assert keys == {key for key in full.state_dict() if key.startswith('global_attention')}
    sum(out.mean() for out in model(torch.randn(IMAGE))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_checkpoints_without_it_load_with_one_line(small, small_model, tmp_path, monkeypatch):
    file = tmp_path / 'plain.pth'
    torch.save({'state_dict': small_model.state_dict()}, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    model = SwinTransformer(**small, global_attention=True, init_cfg=init_cfg)
    before = {k: v.clone() for k, v in model.global_attention.state_dict().items()}
    lines = []
    monkeypatch.setattr(load, 'print_log', lambda message, *_, **__: lines.append(message))
    model.init_weights()
    assert sum('global_attention' in line for line in lines) == 1
    assert all(torch.equal(before[k], v) for k, v in model.global_attention.state_dict().items())
    assert torch.equal(model.norm3.weight, small_model.norm3.weight)


def test_checkpoints_with_it_load_whole_or_not_at_all(small, tmp_path):
    trained = randomized(SwinTransformer(**small, global_attention=True))
    model = SwinTransformer(**small, global_attention=True)
    model.load_state_dict(trained.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key])

    file = tmp_path / 'part.pth'
    part = trained.state_dict()
    del part['global_attention.proj.weight']
    torch.save(part, file)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(file))
    with pytest.raises(CheckpointError, match=r'global_attention\.proj\.weight'):
        model.init_weights()
    model = SwinTransformer(**small)
    torch.save(trained.state_dict(), file)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(file))
    with pytest.raises(CheckpointError, match=r'(?s)not in the model .*global_attention\.qkv'):
        model.init_weights()


def test_converts_to_where_there_is_a_place_for_it(small):
    weights = SwinTransformer(**small, global_attention=True).state_dict()
    kept = convert(weights, 'openmmlab')
    assert {key for key in weights if key.startswith('global_attention')} <= kept.keys()
    with pytest.raises(CheckpointError, match=r'global_attention\S+ has no place in the layout'):
        convert(weights, 'timm')
