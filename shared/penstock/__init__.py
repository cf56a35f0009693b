"""
Penstock makes local language models dependable. A guided tour, bottom up:

    errors       every error, sorted by what the caller should do
    domain       the nouns that everybody shares
    servers      one file per kind of model server: how it is recognised and what its answers mean
    dialects     codecs between a wire format and the neutral request, event and error model
    detection    is it local, and what is it?
    limits       what may be asked of it?
    tokens       how many tokens is it?
    compress     what to leave out when a conversation is too long
    toolcalls    arguments that match the tool's schema, calls that were written as text
    loop_guard   a generation that repeats itself
    sampling     which sampling parameters are sent, and who decided
    template     messages that the model's template can take
    faults       what went wrong, as one of a small set of classes
    retry        try again, and when?
    concurrency  how many at once, and who waits
    resources    how much memory is left, and whose
    supervision  a server that ended: start it again, when, or give it up?
    clients      what coding agents and chat apps get to work with a gateway
    settings     all settings in one tree
    adapters     the only code that touches the world: sockets, probes, files, machine, processes
    client       typed client of a running gateway
    gateway      the app: the pipeline that knows the order of all this
    cli          the command line
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("penstock")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
