"""Keeps the application's TCP in the pod while the capture rules are gone. Called inside the namespace.

The rules mark what they let pass (``names.PASSED_MARK``). A BPF program on the pod's links drops TCP of the application
without this mark, and what the tunnel says to the application, which would not understand it. It stands apart from the
rules, so whoever flushes those opens no way around the tunnel, whether or not the agent is there to put them back.
"""

import os
from collections.abc import Iterable
from functools import cache
from typing import Final

from meshapi import names
from meshengine import KernelUnsupported, load_guard
from meshkit.linux import egress, sockets
from meshkit.linux.egress import Egress
from nodeagent.capture.plan import Mode, PodPlan

_NAME: Final = "culvert-guard"


def probe() -> None:
    """Find out, in a namespace made for the question, whether this kernel can do it.

    Raises:
        OSError: it cannot; the text says why.
    """
    with egress.programs(_NAME) as programs:
        programs.attach("lo", _for_new_pods())
        programs.detach("lo")


def lower() -> None:
    """Take the guard away, before the rules go: nothing shall wait for them in vain.

    Raises:
        OSError: some of it may still be there.
    """
    with egress.programs(_NAME) as programs:
        for link in programs.attached:
            programs.detach(link)


def hoist(plan: PodPlan) -> None:
    """Put the guard where the plan wants it. After the rules: what they have not seen by then is older, and may go on.

    Raises:
        OSError: a link may be without guard.
    """
    with egress.programs(_NAME) as programs:
        wanted = _wanted(plan, programs)
        for link in programs.attached - wanted:
            programs.detach(link)
        lacking = wanted - programs.attached
        if lacking:
            _attach(programs, lacking, sockets.outside(names.TUNNEL_PORTS))


def missing(plan: PodPlan) -> tuple[str, ...]:
    """Name what is not there although the plan wants it."""
    with egress.programs(_NAME) as programs:
        return tuple(f"guard of {link}" for link in sorted(_wanted(plan, programs) - programs.attached))


def _attach(programs: Egress, where: Iterable[str], older: tuple[sockets.Connection, ...]) -> None:
    program = _load(older) if older else _for_new_pods()
    try:
        for link in where:
            programs.attach(link, program)
    finally:
        if older:
            os.close(program)


@cache
def _for_new_pods() -> int:
    """Return the program that knows no older connections; loaded once, because that takes 20 ms."""
    return _load(())


def _load(older: tuple[sockets.Connection, ...]) -> int:
    try:
        return load_guard(
            tunnel_mark=names.TUNNEL_MARK,
            tunnel_mark_mask=names.TUNNEL_MARK_MASK,
            passed_mark=names.PASSED_MARK,
            redirect_ports=(names.OUTBOUND_PORT, names.INBOUND_PLAINTEXT_PORT),
            older=[(*one.local, *one.remote, one.open) for one in older],
        )
    except KernelUnsupported as error:
        raise OSError(str(error)) from error


def _wanted(plan: PodPlan, programs: Egress) -> frozenset[str]:
    """Return the links through which nothing must go that the rules have not seen."""
    if plan.mode is not Mode.CAPTURE:
        return frozenset()
    return programs.links - {*plan.excluded_interfaces, *plan.virtual_interfaces}
