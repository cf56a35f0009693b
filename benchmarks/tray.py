"""
What the tray costs while nobody looks, and how soon it shows a change: `python benchmarks/tray.py` (Linux).

The installed tray runs as a user without rights on a private session bus, with a fake panel and a real gateway.
Resident memory is its own (`VmRSS`); wake-ups are its voluntary context switches, of all threads, in a quiet minute;
the time of a change is from the gateway's answer to the signal on the bus.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

import httpx

from desktops import Person, end, install, session_bus
from fake_panel import FakePanel
from gateways import free_port

_QUIET_S, _CHANGES, _CALM_S = 60.0, 40, 0.4


def _status(pid: int, *names: str) -> dict[str, int]:
    """Numbers of `/proc/PID/status`, added up over its threads."""
    told = dict.fromkeys(names, 0)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in told:
                told[name] += int(value.split()[0])
    return told


def _memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def _measure(person: Person, bus: str, url: str) -> dict[str, float]:
    panel = await FakePanel().start(bus)
    tray = person.start("penstock", "tray", name="tray")
    await panel.until(lambda: panel.registered, "the icon")
    await panel.until(lambda: _is_up(url), "the gateway")
    await asyncio.sleep(10.0)  # it looks for clients once, and sends its icon once more
    rss_kb = _memory_kb(tray.pid)
    before = _status(tray.pid, "voluntary_ctxt_switches")
    await asyncio.sleep(_QUIET_S)
    after = _status(tray.pid, "voluntary_ctxt_switches")
    files = list((person.runtime / "penstock").glob("*.json"))
    token = json.loads(files[0].read_text())["token"]
    took_ms = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for number in range(_CHANGES):
            await asyncio.sleep(_CALM_S)
            panel.signals.clear()
            await client.post(
                f"{url}/penstock/bypass",
                json={"on": number % 2 == 0},
                headers={"penstock-admin-token": token},
            )
            began = time.perf_counter()
            while "ItemsPropertiesUpdated" not in panel.signals:  # noqa: ASYNC110 - a fake, which only lists
                await asyncio.sleep(0.001)
            took_ms.append((time.perf_counter() - began) * 1000)
    await panel.click("Quit")
    await asyncio.to_thread(tray.wait, 60)
    end(tray)
    panel.bus.disconnect()
    return {
        "rss_mb": round(rss_kb / 1024, 1),
        "wakeups_a_minute": after["voluntary_ctxt_switches"] - before["voluntary_ctxt_switches"],
        "menu_ms_median": round(statistics.median(took_ms), 1),
        "menu_ms_worst": round(max(took_ms), 1),
    }


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    """Measure and print one line of JSON."""
    place = Path(tempfile.mkdtemp(prefix="penstock-installed-"))
    home = Path(tempfile.mkdtemp(prefix="penstock-home-"))
    person = Person(home, install(place))
    port = free_port()
    settings = {
        "version": 1, "listen": {"port": port}, "upstreams": [{"name": "box", "url": "http://127.0.0.1:9"}],
    }  # fmt: skip
    person.write(".config/penstock/penstock.yaml", json.dumps(settings))
    try:
        with session_bus(person) as bus:
            print(json.dumps(asyncio.run(_measure(person, bus, f"http://127.0.0.1:{port}"))))
    finally:
        person.end()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
