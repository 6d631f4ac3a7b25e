"""Sub-models for other engines, and for opening by memory map."""

from submodel.export.hf import FORMATS, export_directory

__all__ = ["FORMATS", "export_directory"]
