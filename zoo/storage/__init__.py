"""Files that are whole or not there: text, weights, records of plain data, stage results by content."""
