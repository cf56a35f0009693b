"""
Ollama's native dialect. `upstream` speaks it towards Ollama; `chat`, `generate` and `embeddings` take it from
clients, in front of any server.
"""
