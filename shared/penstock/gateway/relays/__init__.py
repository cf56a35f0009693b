"""Answers on their way to the client: verbatim, translated, mended or collected."""
