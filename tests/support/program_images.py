"""Images of single programs that are built from their source: Open Policy Agent."""

from pathlib import Path
from typing import Final

from meshlab import images, programs
from meshlab.images import Archive, Image
from meshlab.programs import Say

OPA: Final = f"{images.PREFIX}/opa:1"
_DOCKERFILE: Final = Path(__file__).parent.parent / "cluster" / "programs" / "Dockerfile"


def opa(say: Say) -> Archive:
    """Build the image, or find it in the cache."""
    arguments = {"PROGRAM": "opa"}
    return images.build(Image(OPA, _DOCKERFILE, programs.opa(say), arguments=arguments), say)
