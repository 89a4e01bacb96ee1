"""Images of single programs that are built from their source: fortio, Open Policy Agent."""

from pathlib import Path
from typing import Final

from meshlab import images, programs
from meshlab.images import Archive, Image
from meshlab.programs import Say

FORTIO: Final = f"{images.PREFIX}/fortio:1"
OPA: Final = f"{images.PREFIX}/opa:1"
_DOCKERFILE: Final = Path(__file__).parent.parent / "cluster" / "programs" / "Dockerfile"


def fortio(say: Say) -> Archive:
    """Build the image, or find it in the cache."""
    return _image(FORTIO, "fortio", programs.fortio(say), say)


def opa(say: Say) -> Archive:
    """Build the image, or find it in the cache."""
    return _image(OPA, "opa", programs.opa(say), say)


def _image(name: str, program: str, folder: Path, say: Say) -> Archive:
    return images.build(Image(name, _DOCKERFILE, folder, arguments={"PROGRAM": program}), say)
