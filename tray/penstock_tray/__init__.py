"""
Penstock on a desktop: an icon with a menu in front of the gateway, and its start at login.

`snapshot`, `menu`, `icon_state`, `notices` and `pacing` decide and touch nothing. `desk` ties them to the gateway
(`follower`, `gateway_process`), to what a person sees (`backends`, `notifications`) and to what a click does (`actions`).
`instance` keeps it to one for each user, `login` starts it with the session, `command` is `penstock tray`.
"""
