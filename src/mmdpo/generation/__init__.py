"""Answers from a model: transformers, vLLM, or an OpenAI-compatible endpoint."""
