"""
Local or cloud, by the address alone: parsed as a URL, never by substring (behaviours A1 to A4).

No DNS: a name is judged by what it is, not by what it leads to today. A port or a model's name is a hint
for the kind of server and makes no public address local.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

import idna

from penstock.domain.upstream import Evidence, Locality, Verdict

# Names that lead nowhere but into the own network: RFC 6761 (localhost), RFC 6762 (.local), RFC 8375
# (home.arpa), ICANN's reservation of .internal (2024), and what Docker and Kubernetes use.
_LOCAL_SUFFIXES = (
    ("localhost", "a name under .localhost is this machine (RFC 6761)"),
    ("local", "a name under .local is in the own network (RFC 6762)"),
    ("internal", "a name under .internal is private (ICANN, 2024)"),
    ("lan", "a name under .lan is in the own network"),
    ("home.arpa", "a name under home.arpa is in the own network (RFC 8375)"),
    ("svc", "a Kubernetes Service"),
    ("svc.cluster.local", "a Kubernetes Service"),
)
_SHARED_SPACE = ipaddress.ip_network("100.64.0.0/10")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def judge(url: str, *, declared: bool | None = None, evidence: Iterable[Evidence] = ()) -> Verdict:
    """
    The verdict on an upstream.

    Args:
        url: its address.
        declared: the user's own word; it always wins.
        evidence: what probes found. It may turn local into cloud; it never turns a public address into
            local, it only makes a suggestion.

    Raises:
        ValueError: with a sentence, for what is no usable URL.
    """
    by_address = _judge_address(url)
    extra = tuple(evidence)
    if declared is not None:
        locality = Locality.LOCAL if declared else Locality.CLOUD
        told = Evidence("declared", locality.value, f"declared `local: {str(declared).lower()}`")
        rest = tuple(_hint(e) for e in (*by_address.evidence, *extra))
        return Verdict(locality, 1.0, (told, *rest))
    if not extra:
        return by_address
    relays = [e for e in extra if e.source == "probe" and e.says == Locality.CLOUD.value]
    if by_address.is_local and relays:
        rest = tuple(_hint(e) for e in by_address.evidence)
        return Verdict(
            Locality.CLOUD,
            0.8,
            (*relays, *rest, *(e for e in extra if e not in relays)),
            "If requests stay on your machines, declare `local: true`.",
        )
    suggestion = None
    if not by_address.is_local and any(e.source == "probe" and e not in relays for e in extra):
        suggestion = (
            "A model server answers at this public address; if it is yours, declare `local: true`."
        )
    return Verdict(
        by_address.locality, by_address.confidence, (*by_address.evidence, *extra), suggestion
    )


def _hint(evidence: Evidence) -> Evidence:
    return Evidence(evidence.source, evidence.says, evidence.detail, decisive=False)


@lru_cache(maxsize=4096)
def normalise_url(url: str) -> str:
    """
    An upstream's URL as Penstock uses it: a scheme, no trailing `/` and no trailing `/v1`.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    text = url.strip()
    if not text:
        raise ValueError("expected a URL such as http://127.0.0.1:11434, got nothing")
    if any(ord(c) < 33 or ord(c) == 127 for c in text):
        raise ValueError("expected a URL without spaces and control characters")
    if text.startswith("unix:"):
        path = text.removeprefix("unix://").removeprefix("unix:").rstrip("/")
        if not path.startswith("/"):
            raise ValueError("expected a socket's full path such as unix:///run/ollama.sock")
        return f"unix://{path}"
    if "://" not in text:
        text = f"http://{text}"
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in ("http", "https"):
        raise ValueError(f"expected http, https or unix as the scheme, got {scheme[:20]!r}")
    if "\\" in rest:
        raise ValueError(
            "expected a URL without backslashes: browsers and libraries disagree on them"
        )
    try:
        parts = urlsplit(f"{scheme.lower()}://{rest}")
        port, host = parts.port, parts.hostname
    except ValueError as exc:
        raise ValueError(f"expected a URL, got one that cannot be parsed: {exc}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected a URL without user-info; put the credential into api_key")
    if not host:
        raise ValueError("expected a URL with a host")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without query and fragment")
    clean = _clean_host(host)
    shown = f"[{clean}]" if ":" in clean else clean
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    if path.endswith("/v1"):
        path = path[:-3].rstrip("/")
    return f"{parts.scheme}://{shown}{f':{port}' if port is not None else ''}{path}"


def _clean_host(host: str) -> str:
    """Lower case, no trailing dot, IDN as ASCII, odd spellings of IPv4 as the usual one."""
    host = host.strip().lower()
    bare = host.rstrip(".") if host.endswith(".") and not host.endswith("..") else host
    address = _address(bare)
    if address is not None:
        scope = bare.partition("%")[2]
        return f"{address}%{scope}" if scope and "%" not in str(address) else str(address)
    if not bare.isascii():
        try:
            bare = idna.encode(bare, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise ValueError(f"expected a host name, got {host[:60]!r}") from None
        address = _address(bare)
        if address is not None:
            return str(address)
    labels = bare.split(".")
    if len(bare) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"expected a host name, got {host[:60]!r}")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"expected an IP address, got {host[:60]!r}")
    return bare


def _address(host: str) -> _Address | None:
    """
    An IP address in any spelling that systems accept.

    IPv4 as `inet_aton` reads it: one to four numbers, decimal, octal (`0177.1`) or hexadecimal
    (`0x7f.1`), the last of which fills what is left (WHATWG URL, "IPv4 parser").
    """
    bare = host.strip("[]")
    if ":" in bare:
        try:
            return ipaddress.IPv6Address(bare.partition("%")[0])
        except ValueError:
            return None
    parts = bare.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        numbers = [_integer(part) for part in parts]
    except ValueError:
        return None
    value = 0
    for place, number in enumerate(numbers[:-1]):
        if number > 255:
            return None
        value += number << (8 * (3 - place))
    if numbers[-1] >= 256 ** (5 - len(numbers)):
        return None
    return ipaddress.IPv4Address(value + numbers[-1])


def _integer(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text, 0)
    return int(text, 8) if len(text) > 1 and text.startswith("0") else int(text)


@lru_cache(maxsize=4096)
def _judge_address(url: str) -> Verdict:
    clean = normalise_url(url)
    if clean.startswith("unix://"):
        return _local("a Unix socket is on this machine")
    host = urlsplit(clean).hostname or ""
    address = _address(host)
    if address is not None:
        return _judge_ip(address)
    if host == "localhost":
        return _local("localhost is this machine (RFC 6761)")
    if host in ("host.docker.internal", "gateway.docker.internal", "host.containers.internal"):
        return _local("the machine that the container runs on")
    for suffix, why in _LOCAL_SUFFIXES:
        if host.endswith(f".{suffix}"):
            return _local(why)
    if "." not in host:
        return _local("a name of one label exists in the own network only", 0.9)
    return Verdict(
        Locality.CLOUD, 0.95, (Evidence("address", "cloud", f"{host} is a public name"),)
    )


def _judge_ip(address: _Address) -> Verdict:
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is not None:
            return _judge_ip(mapped)
        private = address in ipaddress.ip_network("fc00::/7")
    else:
        private = any(
            address in ipaddress.ip_network(net)
            for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
        )
    if address.is_loopback:
        return _local(f"{address} is this machine")
    if address.is_unspecified:
        return _local(f"{address} stands for this machine")
    if private:
        return _local(f"{address} is a private address")
    if address.is_link_local:
        return _local(f"{address} is a link-local address")
    if isinstance(address, ipaddress.IPv4Address) and address in _SHARED_SPACE:
        return _local(f"{address} is in 100.64/10 (Tailscale, carrier NAT)", 0.9)
    return Verdict(
        Locality.CLOUD, 0.99, (Evidence("address", "cloud", f"{address} is a public address"),)
    )


def _local(why: str, confidence: float = 1.0) -> Verdict:
    return Verdict(Locality.LOCAL, confidence, (Evidence("address", "local", why),))
