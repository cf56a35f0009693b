"""Ollama's native dialect: `upstream` speaks it towards Ollama."""
