"""The HTML page of a report: one file with tables, figures, and audio to compare by ear."""
