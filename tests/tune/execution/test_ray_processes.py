"""Ray's processes and Ctrl-C on Windows; the real ones are ended in ``tests/faults``."""

from __future__ import annotations

from unittest import mock

import pytest

from tune.execution.ray_processes import started_deaf_to_ctrl_c


def test_windows_spares_what_is_started_and_hears_ctrl_c_again() -> None:
    """Also where the start fails."""
    kernel32 = mock.Mock(**{"start.side_effect": ConnectionError})
    with pytest.raises(ConnectionError), started_deaf_to_ctrl_c(kernel32):
        kernel32.start()
    assert kernel32.mock_calls == [
        mock.call.SetConsoleCtrlHandler(None, True),
        mock.call.start(),
        mock.call.SetConsoleCtrlHandler(None, False),
    ]
