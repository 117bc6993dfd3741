"""What must be installed beside Slicer, and the weights on this computer. Nothing is installed unless asked for."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.process import libraryFolder

TORCH = ">=2.4"
PACKAGES = {  # module: package
    "skimage": "scikit-image",
    "monai": "monai",
    "safetensors": "safetensors",
    "pydicom": "pydicom",
}
FAST = {"numba": "numba"}  # without it everything works, several times slower
SLICERS = ("numpy", "scipy", "SimpleITK")  # packages of Slicer itself, of which an installation changes no version
MODELS = "RECURRENT_REGISTRATION_MODELS"  # as the worker reads it
CARD, WEIGHTS = "card.json", "weights.safetensors"


@dataclass(frozen=True)
class Part:
    """A package, and how it stands.

    Attributes:
        name: as it is installed.
        version: None where it is missing.
        ok: whether it can be used.
        text: the same for the user.
    """

    name: str
    version: str | None
    ok: bool
    text: str


@dataclass(frozen=True)
class Weights:
    """Trained parameters of a method on this computer.

    Attributes:
        name: of their folder.
        folder: where they lie.
        size: bytes.
        sha256: of the file as it is.
        text: what they are for, or what is wrong with them.
    """

    name: str
    folder: Path
    size: int
    sha256: str
    text: str


def status() -> list[Part]:
    """PyTorch and the packages, without importing any."""
    return [_torch(), *(_part(module, package) for module, package in (PACKAGES | FAST).items())]


def missing() -> list[str]:
    """What is to be installed."""
    return [part.name for part in status() if not part.ok]


def ready() -> bool:
    """Whether nothing is missing that a registration needs."""
    return not set(missing()) - set(FAST.values())


def install(askConfirmation: bool = True) -> str:
    """Install what is missing; one sentence about it.

    PyTorch comes from Slicer's PyTorch extension, which chooses the build that fits the computer.

    Raises:
        RegistrationError: that extension is missing, the computer is too old, or the installation failed.
    """
    if not _torch().ok:
        _installTorch(askConfirmation)
    wanted = [part.name for part in status()[1:] if not part.ok]
    for packages in ([name for name in wanted if name not in FAST], [name for name in wanted if name in FAST]):
        if packages:
            _installPackages(packages)
    left = missing()
    if left:
        raise RegistrationError(f"{', '.join(left)} could not be installed: see the Python console.")
    return "Everything needed is installed."


def weightsFolder() -> Path:
    """Where weights lie; on a computer without a network, copy their folders there."""
    installed = libraryFolder() / "RecurrentRegistrationLib" / "Models"
    beside = libraryFolder() / "Resources" / "Models"
    return Path(os.environ.get(MODELS) or (installed if installed.exists() else beside))


def makeWeightsFolder() -> None:
    """Make that folder where it is not there yet. Raises RegistrationError where it cannot be made."""
    try:
        weightsFolder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistrationError(
            f"The folder of the weights cannot be made ({error.strerror}): set {MODELS}."
        ) from error


def weights() -> list[Weights]:
    """The weights on this computer, by name."""
    return [_weights(card) for card in sorted(weightsFolder().glob(f"*/{CARD}"))]


def deleteWeights(name: str) -> None:
    """Delete weights from this computer. Raises RegistrationError where they cannot be."""
    found = next((each for each in weights() if each.name == name), None)
    if found is None:
        raise RegistrationError(f"There are no weights '{name}' in {weightsFolder()}.")
    try:
        shutil.rmtree(found.folder)
    except OSError as error:
        raise RegistrationError(f"The weights in {found.folder} cannot be deleted: {error.strerror}.") from error


def _torch() -> Part:
    part = _part("torch", "torch")
    if not part.ok or part.version is None:
        return part
    numbers = tuple(int(n) for n in part.version.split("+")[0].split(".")[:2])
    if numbers >= (2, 4):
        return part
    text = f"version {part.version} is too old, {TORCH[2:]} or newer is needed"
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        text += "; there is none for Macs with an Intel processor"
    return Part("torch", part.version, False, text)


def _part(module: str, package: str) -> Part:
    importlib.invalidate_caches()
    found = importlib.util.find_spec(module)
    if found is None:
        return Part(package, None, False, "not installed")
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Part(package, None, False, "installed only in part: install it again")
    return Part(package, version, True, f"version {version}")


def _installTorch(askConfirmation: bool) -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise RegistrationError("Install the extension PyTorch in the Extensions Manager first.") from error
    logic = PyTorchUtils.PyTorchUtilsLogic()
    try:
        installed = logic.installTorch(askConfirmation=askConfirmation, torchVersionRequirement=TORCH)
    except Exception as error:  # pip fails in many ways, and each must be told
        raise RegistrationError(f"PyTorch could not be installed: {error}.") from error
    if installed is None:
        raise RegistrationError("PyTorch was not installed: it is needed for every registration.")


def _installPackages(packages: list[str]) -> None:
    import slicer.util

    names, packages = ", ".join(packages), [*packages, *kept()]
    try:
        try:
            from slicer.packaging import pip_ensure  # Slicer 5.12 and newer
        except ImportError:
            slicer.util.pip_install(packages)
        else:
            pip_ensure(packages, requester="Recurrent Registration")
    except Exception as error:  # pip fails in many ways, and each must be told
        raise RegistrationError(f"{names} could not be installed: {error}.") from error


def kept() -> list[str]:
    """Requirements that hold Slicer's own packages at the versions they have."""
    pins = []
    for package in SLICERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            pins.append(f"{package}=={importlib.metadata.version(package)}")
    return pins


def _weights(card: Path) -> Weights:
    folder = card.parent
    try:
        file = (folder / WEIGHTS).stat()
        known = json.loads(card.read_text(encoding="utf-8"))
        checksum = _checksum(folder / WEIGHTS, file.st_size, file.st_mtime_ns)
        good = checksum == known["sha256"]
        text = known["summary"] if good else "damaged: the checksum is not that of the card, copy them again"
        return Weights(folder.name, folder, file.st_size, checksum, text)
    except (OSError, ValueError, KeyError) as error:
        return Weights(folder.name, folder, 0, "", f"damaged: {type(error).__name__}, copy them again")


def fileChecksum(path: Path) -> str:
    """SHA-256 of a file of weights; "unknown" where it cannot be read."""
    try:
        file = path.stat()
        return _checksum(path, file.st_size, file.st_mtime_ns)
    except OSError:
        return "unknown"


@functools.lru_cache
def _checksum(path: Path, size: int, changed: int) -> str:
    """Of a file as it was last changed: large ones take seconds, and the panel asks whenever it is opened."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
