"""Reading, checking and collating preference data."""
