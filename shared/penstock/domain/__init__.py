"""
The nouns that everybody shares. Values only: nothing here decides or touches the world.

`upstream` what requests go to; `profile` what is known of a model there; `chat` the neutral request and
its events; `fault` what went wrong; `options` how a settings class looks.
"""
