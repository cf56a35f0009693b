"""
Codecs between wire formats and the neutral model of `penstock.domain.chat`. Bytes and values only.

`base` says what a client's dialect is; `openai`, `anthropic`, `responses` and `ollama` translate requests and
events; `sse` and `ndjson` cut streams into events, `collect` folds a stream into the body a server would have
answered plain, `surfaces` is what the gateway itself says in each client's dialect.
"""
