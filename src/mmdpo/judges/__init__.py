"""Judges: language models that read answers, one file each."""
