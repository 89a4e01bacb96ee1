"""Keeps the application's TCP in the pod while the capture rules are missing. Called inside the namespace.

The rules mark the packets that they pass on purpose (``names.PASSED_MARK``). A BPF program on the egress of the pod's
links drops the application's TCP without this mark, and the tunnel's packets to the application, which would be
unexpected there. The program is independent of the rules: flushing the rules opens no path around the tunnel, whether
or not a node agent runs that restores them.
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
    """Load and attach the program in a scratch namespace.

    Raises:
        OSError: this kernel cannot; the text says why.
    """
    with egress.programs(_NAME) as programs:
        programs.attach("lo", _for_new_pods())
        programs.detach("lo")


def detach() -> None:
    """Detach the guard. Called before the rules are removed, so that no packet is dropped for lack of a mark.

    Raises:
        OSError: a link may still have it.
    """
    with egress.programs(_NAME) as programs:
        for link in programs.attached:
            programs.detach(link)


def attach(plan: PodPlan) -> None:
    """Attach the guard to the links that the plan covers, after the rules. Connections established earlier are exempt.

    Raises:
        OSError: a link may lack the guard.
    """
    with egress.programs(_NAME) as programs:
        wanted = _wanted(plan, programs)
        for link in programs.attached - wanted:
            programs.detach(link)
        lacking = wanted - programs.attached
        if lacking:
            _attach(programs, lacking, sockets.outside(names.TUNNEL_PORTS))


def missing(plan: PodPlan) -> tuple[str, ...]:
    """Return the names of links that lack the guard although the plan covers them."""
    with egress.programs(_NAME) as programs:
        return tuple(f"guard of {link}" for link in sorted(_wanted(plan, programs) - programs.attached))


def _attach(programs: Egress, where: Iterable[str], preexisting: tuple[sockets.Connection, ...]) -> None:
    program = _load(preexisting) if preexisting else _for_new_pods()
    try:
        for link in where:
            programs.attach(link, program)
    finally:
        if preexisting:
            os.close(program)


@cache
def _for_new_pods() -> int:
    """Return the program without exempt connections; loaded once, because loading takes 20 ms."""
    return _load(())


def _load(preexisting: tuple[sockets.Connection, ...]) -> int:
    try:
        return load_guard(
            tunnel_mark=names.TUNNEL_MARK,
            tunnel_mark_mask=names.TUNNEL_MARK_MASK,
            passed_mark=names.PASSED_MARK,
            redirect_ports=(names.OUTBOUND_PORT, names.INBOUND_PLAINTEXT_PORT),
            preexisting=[(*one.local, *one.remote, one.open) for one in preexisting],
        )
    except KernelUnsupported as error:
        raise OSError(str(error)) from error


def _wanted(plan: PodPlan, programs: Egress) -> frozenset[str]:
    """Return the links on which unmarked packets must be dropped."""
    if plan.mode is not Mode.CAPTURE:
        return frozenset()
    return programs.links - {*plan.excluded_interfaces, *plan.virtual_interfaces}
