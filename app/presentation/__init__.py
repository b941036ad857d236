"""What every door shows, as sentences, tables, HTML and files; no widgets, no charts."""
