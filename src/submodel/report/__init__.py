"""Rows of results -> tables."""

from submodel.report.tables import EXTRACTION, aligned, drawn, table, told_apart, without

__all__ = ["EXTRACTION", "aligned", "drawn", "table", "told_apart", "without"]
