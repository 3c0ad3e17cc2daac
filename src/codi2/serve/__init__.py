"""The server: one engine, an OpenAI-shaped API, sessions and a page around it."""
