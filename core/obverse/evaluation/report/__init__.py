"""A results folder as one HTML page that needs nothing else: no network, no other file.

rows       operating points and samples as rows of tables; curves, times and pictures come from `analyses`
tables     HTML tables
pictures   decoded pictures as data, within a size
page       all of it together with the style sheet and the scripts beside this file
"""

from __future__ import annotations

from obverse.evaluation.report.page import Report, make_report

__all__ = ["Report", "make_report"]
