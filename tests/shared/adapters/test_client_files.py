"""Clients' files are changed with a backup and come back byte for byte, or keep what others changed since."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.adapters import client_files
from penstock.adapters.client_files import ClientFileError, Undone
from penstock.clients import CLIENTS, ClientSpec, Connection, Model, client_named

MODEL = Model("qwen3:30b", 65_536, None, "running")
SMALLER = Model("qwen3:30b", 16_384, None, "running")
URL = "http://127.0.0.1:7367"
THEIRS = b'{\n  // mine\n  "env": {"FOO": "1"}, // foo\n  "theme": "dark"\n}\n'


@contextmanager
def home(folder: Path) -> Iterator[Path]:
    """A home folder of its own, with none of the variables that lead elsewhere."""
    old = dict(os.environ)
    for name in (
        "CLAUDE_CONFIG_DIR",
        "CODEX_HOME",
        "XDG_CONFIG_HOME",
        "CONTINUE_GLOBAL_DIR",
        "XDG_RUNTIME_DIR",
    ):
        os.environ.pop(name, None)
    os.environ.update(
        HOME=str(folder), USERPROFILE=str(folder), XDG_STATE_HOME=str(folder / "state"), PATH=""
    )
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(old)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """An empty home folder."""
    with home(tmp_path) as folder:
        yield folder


def named(name: str) -> ClientSpec:
    """One of the table."""
    found = client_named(name)
    assert found is not None
    return found


def connect(name: str, model: Model = MODEL, given: Path | None = None) -> list[Path]:
    """`connect NAME --write`; the backups."""
    spec, connection = named(name), Connection(URL, model, (model,))
    return client_files.write(
        spec, connection, client_files.plan(spec, spec.setup(connection).files, given)
    )


def undo(name: str) -> list[Undone]:
    """`connect NAME --undo`."""
    return client_files.undo(named(name))


WITH_FILES = [spec for spec in CLIENTS if not spec.cannot_write]
TEXTS = st.sampled_from(
    ["", "{}", THEIRS.decode(), "# c\nmodel: x\n", "models:\n- name: a\n", 'model = "x" # y\n[t]\n', "\ufeff{}", "null",
     '{"model": {"a": 1}}', "{", "a: [", "[1]", "model_list: 3\n", "\r\n", '{"env":\r\n{}}\r\n', "# only\n", "// only"]
)  # fmt: skip


@pytest.mark.parametrize("spec", WITH_FILES, ids=lambda s: s.name)
@settings(max_examples=30)
@given(content=TEXTS.map(str.encode) | st.binary(max_size=40) | st.none())
def test_undone_a_file_is_byte_for_byte_what_it_was(
    spec: ClientSpec, content: bytes | None
) -> None:
    """Whatever stood there, or nothing; a file that cannot be read as its format is refused and not touched."""
    with tempfile.TemporaryDirectory() as folder, home(Path(folder)) as here:
        given_ = here / "given" if spec.name == "litellm" else None
        connection = Connection(URL, MODEL, (MODEL,))
        files = spec.setup(connection).files
        paths = [client_files.path_of(f, given_ if n == 0 else None) for n, f in enumerate(files)]
        assert all(paths)
        if content is not None:
            for path in paths:
                assert path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        refused = ""
        try:
            connect(spec.name, given=given_)
        except ClientFileError as exc:
            refused = str(exc)
        if refused:
            assert content is not None
            assert "is left as it is" in refused
            assert client_files.connected() == []
        else:
            assert all(path and path.read_bytes() != content for path in paths)
            assert {u.how for u in undo(spec.name)} == {
                "removed" if content is None else "restored"
            }
        assert [path.read_bytes() if path and path.exists() else None for path in paths] == [
            content
        ] * len(paths)
        left = [p for p in here.rglob("*") if p.is_file()]
        assert sorted(left) == sorted(path for path in paths if path and content is not None)


def test_mode_and_links_stay(here: Path) -> None:
    """A file's mode is kept, a link stays a link, and the backup is as private as the file."""
    real = here / "dotfiles" / "claude.json"
    real.parent.mkdir()
    real.write_bytes(THEIRS)
    real.chmod(0o640)
    link = here / ".claude" / "settings.json"
    link.parent.mkdir()
    link.symlink_to(real)
    (backup,) = connect("claude")
    assert link.is_symlink()
    assert backup == real.with_name("claude.json.penstock-backup")
    assert backup.read_bytes() == THEIRS
    assert {p.stat().st_mode & 0o777 for p in (real, backup)} == {0o640}
    undo("claude")
    assert (link.is_symlink(), real.read_bytes(), real.stat().st_mode & 0o777) == (
        True,
        THEIRS,
        0o640,
    )
    assert not backup.exists()


@pytest.mark.skipif(os.name == "nt", reason="platform: modes are POSIX")
def test_new_files_are_for_their_user_only(here: Path) -> None:
    """They may hold a key."""
    connect("codex")
    assert (here / ".codex" / "config.toml").stat().st_mode & 0o777 == 0o600
    assert (
        here / "state" / "penstock" / "connected" / "codex.json"
    ).stat().st_mode & 0o777 == 0o600


def test_a_second_connect_keeps_the_first_backup(here: Path) -> None:
    """Connected again with another window, the undo still leads to what was there before the first."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    first = connect("claude")
    again = connect("claude", SMALLER)
    assert first == again
    assert first[0].read_bytes() == THEIRS
    assert json.loads(path.read_text().replace("// mine", "").replace("// foo", ""))["env"][
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "16384"  # fmt: skip
    assert [c.window for c in client_files.connected()] == [16_384]
    assert [u.how for u in undo("claude")] == ["restored"]
    assert path.read_bytes() == THEIRS
    assert client_files.connected() == []


def test_what_the_user_changed_since_stays(here: Path) -> None:
    """Only our settings go; a value that is no longer ours is left and named; the backup is kept."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    (backup,) = connect("claude")
    changed = path.read_text().replace('"dark"', '"light", // now\n  "new": 1')
    path.write_text(
        changed.replace(
            '"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8192"', '"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "99"'
        )
    )
    (done,) = undo("claude")
    assert (done.how, done.kept, done.backup) == (
        "taken back",
        ("env.CLAUDE_CODE_MAX_OUTPUT_TOKENS",),
        backup,
    )
    text = path.read_text()
    assert all(
        part in text for part in ("// mine", "// foo", '"light", // now', '"new": 1', '"FOO": "1"')
    )
    assert text.count("CLAUDE_CODE") == 1
    assert "ANTHROPIC" not in text
    assert backup.read_bytes() == THEIRS


def test_connected_again_after_the_user_changed_something(here: Path) -> None:
    """The change survives both the second connect and its undo; no second backup is made."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    (backup,) = connect("claude")
    path.write_text(path.read_text().replace('"dark"', '"light"'))
    assert connect("claude", SMALLER) == [backup]
    assert '"16384"' in path.read_text()
    (done,) = undo("claude")
    assert (done.how, done.kept) == ("taken back", ())
    assert '"light"' in path.read_text()
    assert "ANTHROPIC" not in path.read_text()


def test_what_was_overwritten_comes_back_when_only_ours_is_taken(here: Path) -> None:
    """A model that the user had set before is set again, also in a file that was changed since."""
    path = here / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('# mine\nmodel = "gpt-9" # best\n')
    connect("codex")
    path.write_text(path.read_text() + '\n[profiles.x]\nmodel = "y"\n')
    (done,) = undo("codex")
    assert done.how == "taken back"
    assert path.read_text().startswith('# mine\nmodel = "gpt-9" # best\n')
    assert "penstock" not in path.read_text().lower()


def test_an_older_backup_is_never_overwritten(here: Path) -> None:
    """What lies under its name may be all that is left of something."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    older = path.with_name("settings.json.penstock-backup")
    older.write_bytes(b"older")
    (backup,) = connect("claude")
    assert (backup.name, older.read_bytes()) == ("settings.json.penstock-backup-2", b"older")


def test_a_file_that_is_gone(here: Path) -> None:
    """Is not made again; its backup is named."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    (backup,) = connect("claude")
    path.unlink()
    (done,) = undo("claude")
    assert (done.how, done.backup) == ("gone", backup)
    assert not path.exists()


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="platform: root may write everywhere"
)
def test_a_folder_that_cannot_be_written(here: Path) -> None:
    """One sentence, nothing changed, nothing remembered."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    path.parent.chmod(0o500)
    with pytest.raises(ClientFileError, match="cannot be written"):
        connect("claude")
    path.parent.chmod(0o700)
    assert path.read_bytes() == THEIRS
    assert client_files.connected() == []


def test_a_write_that_fails_half_way(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that could not be written is not remembered and leaves no backup; the other can be undone."""
    for name in (".aider.conf.yml", ".aider.model.metadata.json"):
        (here / name).write_bytes(b"# x\n" if name.endswith("yml") else b"{}")
    real = client_files.write_atomically

    def failing(path: Path, data: bytes, **more: object) -> None:
        if path.name == ".aider.model.metadata.json":
            raise OSError(28, "No space left on device")
        real(path, data, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(client_files, "write_atomically", failing)
    with pytest.raises(ClientFileError, match="No space left"):
        connect("aider")
    monkeypatch.undo()
    assert not (here / ".aider.model.metadata.json.penstock-backup").exists()
    assert [u.path.name for u in undo("aider")] == [".aider.conf.yml"]
    assert (here / ".aider.conf.yml").read_bytes() == b"# x\n"


def test_a_file_that_is_saved_meanwhile_is_left(here: Path) -> None:
    """What the client wrote between the plan and the write is not lost."""
    path = here / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(THEIRS)
    spec, connection = named("claude"), Connection(URL, MODEL, (MODEL,))
    planned = client_files.plan(spec, spec.setup(connection).files)
    path.write_bytes(b"{}")
    with pytest.raises(ClientFileError, match="connect again"):
        client_files.write(spec, connection, planned)
    assert path.read_bytes() == b"{}"
    assert client_files.connected() == []


def test_several_connects_at_once_are_undone_by_one(here: Path) -> None:
    """Whoever comes second plans anew or is told so: what was there before is never taken for ours."""
    names = (".aider.conf.yml", ".aider.model.metadata.json")
    for name in names:
        (here / name).write_bytes(b"# x\n" if name.endswith("yml") else b"{}")
    started = threading.Barrier(6)

    def one() -> None:
        started.wait()
        with contextlib.suppress(ClientFileError):
            connect("aider")

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    undo("aider")
    assert [(here / name).read_bytes() for name in names] == [b"# x\n", b"{}"]
    assert list(here.glob("*.penstock-backup*")) == []


def test_nothing_to_undo(here: Path) -> None:
    """Is said."""
    with pytest.raises(ClientFileError, match="not connected"):
        undo("zed")


@pytest.mark.parametrize("spec", WITH_FILES, ids=lambda s: s.name)
def test_an_undone_connect_leaves_no_trace_of_a_client(here: Path, spec: ClientSpec) -> None:
    """Folders that were made for its file go with the file."""
    connect(spec.name, given=here / "made" / "given" if spec.name == "litellm" else None)
    assert list(here.rglob("*")) != [here / "state"]
    undo(spec.name)
    assert [path.name for path in here.iterdir()] == ["state"]


def test_a_folder_that_the_client_uses_by_now_stays(here: Path) -> None:
    """An undo removes nothing that is not ours."""
    connect("codex")
    (here / ".codex" / "sessions").mkdir()
    undo("codex")
    assert sorted(p.name for p in (here / ".codex").iterdir()) == ["sessions"]


def test_clients_are_found_by_what_they_leave(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on PATH, a settings folder, an extension of VS Code or a relative of it."""
    assert [spec.name for spec in CLIENTS if client_files.traces_of(spec)] == []
    (here / ".claude").mkdir()
    (here / ".cursor" / "extensions" / "saoudrizwan.claude-dev-3.9.0").mkdir(parents=True)
    program = here / "bin" / ("qwen.exe" if os.name == "nt" else "qwen")
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    found = {
        spec.name: client_files.traces_of(spec) for spec in CLIENTS if client_files.traces_of(spec)
    }
    assert found == {
        "claude": [str(here / ".claude")],
        "cline": [str(here / ".cursor" / "extensions" / "saoudrizwan.claude-dev-3.9.0")],
        "qwen": [str(program)],
    }


def test_variables_lead_to_other_folders(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the clients themselves read them; of several names the one that is there."""
    monkeypatch.setenv("CODEX_HOME", str(here / "codex"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "xdg"))
    places = {}
    for name in ("codex", "opencode", "zed"):
        (file,) = named(name).setup(Connection(URL, MODEL, (MODEL,))).files
        places[name] = client_files.path_of(file)
    assert places["codex"] == here / "codex" / "config.toml"
    assert places["opencode"] == here / "xdg" / "opencode" / "opencode.json"
    if os.name != "nt":
        assert places["zed"] == here / "xdg" / "zed" / "settings.json"
    jsonc = here / "xdg" / "opencode" / "opencode.jsonc"
    jsonc.parent.mkdir(parents=True)
    jsonc.write_text("{}")
    (file,) = named("opencode").setup(Connection(URL, MODEL, (MODEL,))).files
    assert client_files.path_of(file) == jsonc
