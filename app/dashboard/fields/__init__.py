"""Fields of forms that several pages share."""
