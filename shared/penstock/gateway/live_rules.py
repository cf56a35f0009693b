"""The access rules in force: made from the settings, and replaced in the running gateway at each reload."""

from __future__ import annotations

from penstock.adapters.settings_file import LoadedSettings
from penstock.gateway.app import Gateway
from penstock.gateway.edge.access import AccessRules, is_loopback
from penstock.gateway.runtime import Runtime


class LiveRules:
    """The access rules in force; a reload replaces them in the gateway."""

    def __init__(self, runtime: Runtime, loaded: LoadedSettings, bound_host: str) -> None:
        self._runtime = runtime
        self._bound_host = bound_host
        self.gateway: Gateway | None = None
        self.current = self._make(loaded)

    def update(self, loaded: LoadedSettings) -> None:
        """New settings are in force."""
        if loaded.admin_token is not None:
            self._runtime.admin_token = loaded.admin_token
        self.current = self._make(loaded)
        if self.gateway is not None:
            self.gateway.rules = self.current

    def _make(self, loaded: LoadedSettings) -> AccessRules:
        listen = loaded.settings.listen
        return AccessRules(
            client_keys=loaded.client_keys,
            admin_token=self._runtime.admin_token,
            allowed_hosts=tuple(listen.allowed_hosts),
            origins=tuple(listen.origins),
            only_loopback=is_loopback(self._bound_host),
            metrics_open=listen.metrics_open,
        )
