"""Multi-scale and flip testing of detectors with RoI heads, for boxes and masks.

mmdet 3's ``DetTTAModel`` merges final boxes and does not support masks. This model merges as mmdet
2 did, with which the published multi-scale results were produced: all views share proposals; boxes
and class scores of a proposal are averaged over the views before a single non-maximum suppression;
masks of the remaining boxes are predicted in every view and averaged before they are pasted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmcv.ops import batched_nms
from mmengine.model import BaseModule, BaseTTAModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..errors import ArgumentError


class View(NamedTuple):
    """A batch of images at one scale, flipped or not, and the detector's features.

    Attributes:
        features: The neck's maps, (B, C, H, W) each.
        semantic: The semantic branch's map as a keyword argument of the RoI head; {} if none.
        samples: The images' data samples.
    """

    features: Sequence[Tensor]
    semantic: dict[str, Tensor]
    samples: Sequence[Any]

    @property
    def metas(self) -> list[dict]:
        return [sample.metainfo for sample in self.samples]


@MODELS.register_module()
class RoITTAModel(BaseTTAModel):
    """Tests a Faster, Mask, Cascade or Hybrid Task Cascade R-CNN on several views.

    ``mim test … --tta`` uses ``tta_model=dict(type='swin_backbone.engine.tta.RoITTAModel')`` with a
    ``tta_pipeline`` that produces the views. Views differ only in scale and flip. With one view
    that is not flipped, the result equals that of plain testing bit for bit. The detector's
    ``test_cfg`` applies to proposals, boxes and masks.

    Args:
        module: The detector.
        data_preprocessor: As in ``BaseTTAModel``.

    Raises:
        ArgumentError: The detector has no RPN and RoI head, or already tests on several views.
    """

    def __init__(self, module: dict | nn.Module, data_preprocessor: dict | None = None) -> None:
        super().__init__(module, data_preprocessor)
        name = type(self.module).__name__
        if isinstance(self.module, RoITTAModel):
            raise ArgumentError('this config already tests on several views: leave out --tta')
        if not hasattr(self.module, 'roi_head') or not hasattr(self.module, 'rpn_head'):
            raise ArgumentError(
                f'{name} has no RPN and RoI heads, whose results RoITTAModel merges; for boxes of '
                "any detector there is mmdet's tta_model=dict(type='DetTTAModel', tta_cfg=…)"
            )

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Sequence]) -> list:
        """Predictions for the images of a batch.

        Args:
            data: ``inputs`` and ``data_samples``, each a list of views, each view a list of the
                batch's images.

        Returns:
            The first view's data samples, with ``pred_instances`` in the images' coordinates.
        """
        views = [
            self._view(dict(inputs=inputs, data_samples=samples))
            for inputs, samples in zip(data['inputs'], data['data_samples'], strict=True)
        ]
        # Views are merged in the first view's coordinates without its flip.
        frame = views[0].metas
        proposals = self._proposals(views, frame)
        found = self._boxes(views, frame, proposals)
        if self.module.roi_head.with_mask:
            found = self._masks(views, frame, found)
        else:
            for instances, meta in zip(found, frame, strict=True):
                instances.bboxes = instances.bboxes / _scale(instances.bboxes, meta)
        return self.module.add_pred_to_datasample(list(views[0].samples), found)

    def merge_preds(self, data_samples_list: list) -> list:
        """Not used: ``test_step`` merges earlier, within the detector."""
        raise NotImplementedError('RoITTAModel merges within test_step')

    def _view(self, data: dict) -> View:
        data = self.module.data_preprocessor(data, False)
        features = self.module.extract_feat(data['inputs'])
        roi_head, semantic = self.module.roi_head, {}
        if getattr(roi_head, 'with_semantic', False):
            semantic = dict(semantic_feat=roi_head.semantic_head(features)[1])
        return View(features, semantic, data['data_samples'])

    def _proposals(self, views: list[View], frame: list[dict]) -> list[Tensor]:
        """Boxes (n, 4) per image: the best proposals of all views."""
        rpn_head = self.module.rpn_head
        found = [rpn_head.predict(view.features, view.samples, rescale=False) for view in views]
        if len(views) == 1:
            # They are already suppressed per level. A second pass would suppress more.
            return [
                to_frame(instances.bboxes, meta, meta)
                for instances, meta in zip(found[0], frame, strict=True)
            ]
        cfg, merged = rpn_head.test_cfg, []
        for i, meta in enumerate(frame):
            boxes = torch.cat(
                [
                    to_frame(instances[i].bboxes, view.metas[i], meta)
                    for instances, view in zip(found, views, strict=True)
                ]
            )
            scores = torch.cat([instances[i].scores for instances in found])
            same = scores.new_zeros(len(scores), dtype=torch.long)
            merged.append(batched_nms(boxes, scores, same, cfg.nms)[0][: cfg.max_per_img, :4])
        return merged

    def _boxes(
        self, views: list[View], frame: list[dict], proposals: list[Tensor]
    ) -> list[InstanceData]:
        """Boxes, scores and labels per image, from the mean over the views of each proposal."""
        boxes, scores = [], []  # [view][image]
        for view in views:
            rois = [
                InstanceData(bboxes=from_frame(some, meta, reference))
                for some, meta, reference in zip(proposals, view.metas, frame, strict=True)
            ]
            raw = self.module.roi_head.predict_bbox(
                x=view.features,
                batch_img_metas=view.metas,
                rpn_results_list=rois,
                rcnn_test_cfg=None,
                rescale=False,
                **view.semantic,
            )
            metas = zip(raw, view.metas, frame, strict=True)
            boxes.append([to_frame(one.bboxes, meta, to) for one, meta, to in metas])
            scores.append([one.scores for one in raw])
        cfg = self.module.roi_head.test_cfg
        return [
            suppress(_mean(of_views), _mean(their_scores), cfg)
            for of_views, their_scores in zip(
                zip(*boxes, strict=True), zip(*scores, strict=True), strict=True
            )
        ]

    def _masks(
        self, views: list[View], frame: list[dict], found: list[InstanceData]
    ) -> list[InstanceData]:
        """Adds masks to the boxes, and converts both to the images' coordinates."""
        roi_head, counts = self.module.roi_head, [len(instances) for instances in found]
        masks: list[Tensor | None] = []
        if sum(counts):
            of_views = []
            for view in views:
                metas = zip(found, view.metas, frame, strict=True)
                boxes = [from_frame(one.bboxes, meta, to) for one, meta, to in metas]
                probabilities = mask_probabilities(roi_head, view, _rois(boxes)).split(counts)
                pairs = zip(probabilities, view.metas, strict=True)
                of_views.append([_unflip(some, meta) for some, meta in pairs])
            masks = [_mean(some) for some in zip(*of_views, strict=True)]
        head: Any = roi_head.mask_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return head.predict_by_feat(
            mask_preds=masks or [None] * len(found),  # unused without boxes
            results_list=found,
            batch_img_metas=frame,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
            activate_map=True,  # they are probabilities
        )


def mask_probabilities(roi_head: BaseModule, view: View, rois: Tensor) -> Tensor:
    """Masks of RoIs (n, 5): (n, classes, h, w) in [0, 1], averaged over a cascade's stages."""
    x = view.features
    if hasattr(roi_head, 'mask_info_flow'):  # HTC, whose last stage uses the others' features
        logits = roi_head._mask_forward(-1, x, rois, training=False, **view.semantic)['mask_preds']
    elif isinstance(roi_head.mask_head, nn.ModuleList):
        stages = range(roi_head.num_stages)
        logits = [roi_head._mask_forward(stage, x, rois)['mask_preds'] for stage in stages]
    else:
        logits = [roi_head._mask_forward(x, rois)['mask_preds']]
    return _mean([some.sigmoid() for some in logits])


def suppress(boxes: Tensor, scores: Tensor, cfg: Mapping[str, Any]) -> InstanceData:
    """Non-maximum suppression over boxes of all classes.

    Args:
        boxes: (n, 4), or (n, classes * 4) with boxes per class.
        scores: (n, classes + 1); the last class is the background.
        cfg: ``score_thr``, ``nms`` and ``max_per_img``, as in a detector's ``test_cfg``.

    Returns:
        ``bboxes`` (m, 4), ``scores`` and ``labels`` (m,), best first.
    """
    count, classes = len(scores), scores.shape[1] - 1
    boxes = boxes.reshape(count, -1, 4).expand(count, classes, 4).reshape(-1, 4)
    labels = torch.arange(classes, device=scores.device).repeat(count)
    scores = scores[:, :-1].flatten()
    chosen = (scores > cfg['score_thr']).nonzero().squeeze(1)
    boxes, scores, labels = boxes[chosen], scores[chosen], labels[chosen]
    if len(boxes):
        found, kept = batched_nms(boxes, scores, labels, cfg['nms'])
        if cfg['max_per_img'] > 0:
            found, kept = found[: cfg['max_per_img']], kept[: cfg['max_per_img']]
        boxes, scores, labels = found[:, :4], found[:, 4], labels[kept]
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)


def to_frame(boxes: Tensor, meta: Mapping[str, Any], frame: Mapping[str, Any]) -> Tensor:
    """Converts boxes (n, 4 k) of a view to another view's coordinates without its flip."""
    return _flip(boxes, meta) * _ratio(boxes, frame, meta)


def from_frame(boxes: Tensor, meta: Mapping[str, Any], frame: Mapping[str, Any]) -> Tensor:
    """The inverse of :func:`to_frame`."""
    return _flip(boxes * _ratio(boxes, meta, frame), meta)


def _flip(boxes: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Flips boxes as the view was flipped. Applying it twice has no effect."""
    directions = _flipped(meta)
    if not directions:
        return boxes
    height, width = meta['img_shape'][:2]
    x1, y1, x2, y2 = boxes.unflatten(-1, (-1, 4)).unbind(-1)
    if 'horizontal' in directions:
        x1, x2 = width - x2, width - x1
    if 'vertical' in directions:
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], dim=-1).flatten(-2)


def _unflip(masks: Tensor, meta: Mapping[str, Any]) -> Tensor:
    axes = dict(horizontal=-1, vertical=-2)
    return masks.flip([axes[direction] for direction in _flipped(meta)])


def _flipped(meta: Mapping[str, Any]) -> tuple[str, ...]:
    if not meta.get('flip', False):
        return ()
    direction = meta['flip_direction']
    return ('horizontal', 'vertical') if direction == 'diagonal' else (direction,)


def _scale(boxes: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """A view's scale factor, (4 k,), for all coordinates of ``boxes``."""
    return boxes.new_tensor(meta['scale_factor']).repeat(boxes.shape[-1] // 2)


def _ratio(boxes: Tensor, to: Mapping[str, Any], of: Mapping[str, Any]) -> Tensor:
    return _scale(boxes, to) / _scale(boxes, of)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(dim=0)


def _rois(boxes: list[Tensor]) -> Tensor:
    """Boxes of several images as one tensor (n, 5), with the image's index first."""
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)])
