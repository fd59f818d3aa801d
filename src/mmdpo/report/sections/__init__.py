"""The sections of a report, one file per kind of folder."""
