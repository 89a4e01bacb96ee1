"""nftables of the namespace that the calling thread is in (see ``netns.run``), through libnftables.

One call is one transaction: all of it happens, or none. In-process, because a program started for each pod would cost
more than the rules themselves.
"""

import ctypes
from functools import cache


class NftError(OSError):
    """The kernel or the library refused a transaction; the text says which line and why."""


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise NftError("libnftables.so.1 is missing; install the package libnftables1") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("output", "error"):
        getattr(library, f"nft_ctx_buffer_{name}").argtypes = [ctypes.c_void_p]
        getter = getattr(library, f"nft_ctx_get_{name}_buffer")
        getter.argtypes, getter.restype = [ctypes.c_void_p], ctypes.c_char_p
    return library


def _run(commands: str) -> str:
    library = _library()
    context = library.nft_ctx_new(0)
    if not context:
        raise NftError("no nftables context; is the kernel built with nf_tables?")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, commands.encode()) != 0:
            raise NftError((library.nft_ctx_get_error_buffer(context) or b"").decode().strip())
        return (library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)


def apply(commands: str) -> None:
    """Run commands in nftables' own language as one transaction.

    Raises:
        NftError: nothing has changed.
    """
    _run(commands)


def tables() -> frozenset[tuple[str, str]]:
    """Return family and name of every table."""
    lines = (line.split() for line in _run("list tables").splitlines())
    return frozenset((words[1], words[2]) for words in lines if len(words) == 3)


def list_table(family: str, name: str) -> str | None:
    """Return a table as text, or ``None`` where there is none."""
    try:
        return _run(f"list table {family} {name}")
    except NftError as error:
        if "No such file or directory" in str(error):
            return None
        raise
