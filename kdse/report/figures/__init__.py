"""Figures of a report, drawn with matplotlib: the same system looks the same in all of them."""
