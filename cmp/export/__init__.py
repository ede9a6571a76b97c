"""Pretrained backbones for other libraries."""

from cmp.export.backbone import Backbone, read_backbone
from cmp.export.export import ExportReport, export_backbone
from cmp.export.formats import FORMATS

__all__ = ["FORMATS", "Backbone", "ExportReport", "export_backbone", "read_backbone"]
