"""The configuration that a session keeps of itself."""

from __future__ import annotations

from phaseline.config.resolved import from_yaml
from phaseline.config.sections import Config
from phaseline.errors import ConfigurationError
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError, read_file


def load_stored_config(layout: SessionLayout) -> Config:
    """Reads what a session runs with.

    Raises:
        StoredFileError: The file is gone or damaged.
        SessionFormatError: It is of another version.
    """
    path = layout.config_file
    fix = "Restore it from a copy, or use the version that wrote it."
    try:
        return from_yaml(read_file(path, remedy=fix).decode())
    except FileNotFoundError:
        raise StoredFileError(f"{path}, which the session runs with, is missing. {fix}") from None
    except UnicodeDecodeError as error:
        raise StoredFileError(f"{path}, which the session runs with, is no text. {fix}") from error
    except ConfigurationError as error:
        raise StoredFileError(
            f"{path}, which the session runs with, cannot be read: {error.faults[0]} {fix}"
        ) from error
