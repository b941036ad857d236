"""Jobs as the pages show them."""
