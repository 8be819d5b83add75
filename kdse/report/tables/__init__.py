"""Tables of a report: one kind of table, what fills it, and what writes it."""
