"""What several processes share: the order of rows, agreement on data and options, and what engines can score."""
