"""Rows of results -> tables."""

from submodel.report.tables import EXTRACTION, aligned, distinct_names, drawn, table, without

__all__ = ["EXTRACTION", "aligned", "drawn", "table", "distinct_names", "without"]
