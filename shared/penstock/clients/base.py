"""
What a client is to `penstock connect`, and what it is connected to: the nouns of this package.

A client's module declares one `ClientSpec`. Its `setup` is a pure function: from a `Connection` (gateway, key,
the model with its *running* window) to a `Setup` (variables, settings of files, how it is started, what has to
be typed by hand). Reading, writing and undoing is the same for all of them (`edits`,
`penstock.adapters.client_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from penstock.clients.edits import Format, Setting

PLACEHOLDER_KEY = "penstock"
"""Clients insist on a key; a gateway without client keys takes any."""

MOST_OUTPUT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Model:
    """
    A model as the gateway lists it.

    Attributes:
        window: tokens that one request may occupy *now*, None when nobody knows (a cloud model).
        output: most tokens of an answer, where somebody said so.
        source: where the window's number comes from (`running`, `explicit`, `name`, ...).
        is_alias: whether it is another name of a model that is listed, too.
    """

    id: str
    window: int | None = None
    output: int | None = None
    source: str = ""
    is_alias: bool = False

    @property
    def output_tokens(self) -> int:
        """The output limit that clients are given: a quarter of the window, at most 8,192 and at least 256."""
        if self.output is not None:
            return self.output
        if self.window is None:
            return MOST_OUTPUT_TOKENS
        return max(256, min(MOST_OUTPUT_TOKENS, self.window // 4))


@dataclass(frozen=True, slots=True)
class Connection:
    """
    What a client is connected to.

    Attributes:
        url: of the gateway, without `/v1`.
        model: the chosen one.
        models: all that the gateway lists, the chosen one first.
        key: a client key; None where the gateway wants none.
    """

    url: str
    model: Model
    models: tuple[Model, ...]
    key: str | None = field(default=None, repr=False)

    @property
    def openai_url(self) -> str:
        """The base that OpenAI's clients want."""
        return f"{self.url.rstrip('/')}/v1"

    @property
    def any_key(self) -> str:
        """A key for clients that insist on one."""
        return self.key or PLACEHOLDER_KEY


@dataclass(frozen=True, slots=True)
class Folder:
    """
    Where a client keeps its settings.

    Attributes:
        home: below the home folder.
        variable: an environment variable that names another folder.
        inside: below the folder that the variable names.
        windows: below the home folder on Windows, where it differs.
    """

    home: tuple[str, ...]
    variable: str | None = None
    inside: tuple[str, ...] = ()
    windows: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ClientFile:
    """
    One settings file.

    Attributes:
        names: what it may be called; the first that exists, else the first.
        settings: what is put into it.
        folder: None where its place is the user's choice (LiteLLM): `--file` names it.
    """

    folder: Folder | None
    names: tuple[str, ...]
    format: Format
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """
    How it is started with these settings and without a change of its files.

    Attributes:
        program: to start; None where the first argument names it.
        arguments: before the user's own.
        environment: set for it.
        unset: variables that would win over ours.
        files: name -> text of files of our own that it is pointed to; `{name}` in arguments and
            environment becomes their path.
        without: what it lacks compared with `--write`, None for nothing.
    """

    program: str | None
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    unset: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    without: str | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """
    All that a client needs for a connection.

    Attributes:
        environment: variables for a shell, `--print` of clients without a file.
        files: for `--write`; empty where the client has none that could be written.
        launch: for `--run`; None where it cannot be started like that.
        steps: what has to be done by hand, in order.
        notes: worth knowing.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: tuple[ClientFile, ...] = ()
    launch: Launch | None = None
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Traces:
    """
    How it is seen that a client is installed.

    Attributes:
        programs: on PATH.
        folders: of its settings.
        extensions: prefixes of folder names among VS Code's (and its relatives') extensions.
    """

    programs: tuple[str, ...] = ()
    folders: tuple[Folder, ...] = ()
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """
    One client.

    Attributes:
        name: on the command line; `also` are other spellings.
        dialect: what it speaks to the gateway.
        setup: from a connection to all that it needs.
        own_tokens: about how many tokens its own prompt and tools take before the user's first word;
            0 where it has none to speak of.
        own_tokens_from: where that number comes from.
        keeps_free: tokens that it keeps free beside the output, before it compacts.
        cannot_write: why `--write` is impossible, None where it is possible.
        cannot_prevent: what Penstock cannot prevent, each to be read after the title; `doctor` says them.
        sources: where its facts are from.
    """

    name: str
    title: str
    dialect: str
    setup: Callable[[Connection], Setup] = field(repr=False)
    traces: Traces = Traces()
    also: tuple[str, ...] = ()
    own_tokens: int = 0
    own_tokens_from: str = ""
    keeps_free: int = 0
    cannot_write: str | None = None
    cannot_prevent: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
