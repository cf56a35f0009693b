"""
OpenAI chat completions, the hub of all dialects.

`request` reads what a client asks, `body` writes what a server is asked, `chunks` reads what a server answers,
`answer` writes what a client gets.
"""
