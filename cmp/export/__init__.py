"""Pretrained backbones for other libraries."""

from cmp.export.backbone import FORMATS, Backbone, ExportReport, export_backbone, read_backbone

__all__ = ["FORMATS", "Backbone", "ExportReport", "export_backbone", "read_backbone"]
