"""The times of a busy machine are measured beside busy processes, which then end."""

from __future__ import annotations

import busy
import pytest

pytestmark = pytest.mark.backendless


def test_it_measures(capsys):
    found = busy.main(["--workloads", "small-sine-relu-order2", "--peers", "loop", "--seconds", "0.05"])
    assert list(found) == [("small-sine-relu-order2", "maml_fast"), ("small-sine-relu-order2", "loop")]
    assert all(quiet > 0 and slow > 0 for quiet, slow in found.values())
    assert capsys.readouterr().out.count("busy") == 2


def test_processes_end():
    with pytest.raises(ZeroDivisionError), busy.busy_cores(2):
        raise ZeroDivisionError
