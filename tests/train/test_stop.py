"""Signals: raised at once outside the loop, noted inside it; handlers are put back."""

import os
import signal
import threading

import pytest

from lorax.train.stop import Stop, Stopped, catch


def send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


def test_outside_the_loop_it_is_raised_at_once():
    with catch() as stop, pytest.raises(Stopped, match="stopped by SIGTERM") as caught:
        assert not stop.requested()
        send()
    assert caught.value.signum == signal.SIGTERM


def test_inside_the_loop_it_is_noted_and_asked_for():
    with catch() as stop:
        with stop.deferred():
            send(signal.SIGTERM)
            assert stop.requested()
            with pytest.raises(Stopped, match="stopped by SIGTERM after step 7"):
                stop.check("after step 7")
        with pytest.raises(Stopped), stop.deferred():
            raise AssertionError("a run that was asked to end does not begin")


def test_a_second_signal_does_not_wait():
    with catch() as stop, stop.deferred():
        send()
        with pytest.raises(Stopped):
            send()


def test_a_stop_says_where_and_is_no_failure():
    with catch() as stop:
        stop.where = "after the last step"
        with pytest.raises(Stopped, match="stopped by SIGTERM after the last step"):
            try:
                send()
            except Exception:  # as libraries do that wrap what fails in them
                raise AssertionError("a stop was taken for a failure") from None


def test_a_handler_of_another_language_becomes_the_default(monkeypatch):
    set_handler = signal.signal
    monkeypatch.setattr(signal, "signal", lambda *given: set_handler(*given) and None)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        with catch():
            pass
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for signum, handler in before.items():
            set_handler(signum, handler)


def test_handlers_are_put_back():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with catch():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with catch() as stop:
            send(signal.SIGINT)
            assert not stop.requested()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_get_a_stop_that_never_asks():
    found = []

    def work():
        with catch() as stop:
            found.append((isinstance(stop, Stop), stop.requested()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, False)]
