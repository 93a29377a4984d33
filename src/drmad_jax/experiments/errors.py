"""What can go wrong in an experiment, and the exit code it ends the command line with."""


class ExperimentError(Exception):
    """An error that is told to the user as one message, without a traceback."""

    exit_code = 1


class ConfigError(ExperimentError, ValueError):
    """A configuration that cannot be run; the message names the full dotted key."""

    exit_code = 2


class UserCodeError(ConfigError):
    """An exception within the user's own code; the message names file and line."""


class RunFolderError(ExperimentError):
    """A run folder that cannot be used in the way asked for."""

    exit_code = 2


class DatasetError(ExperimentError):
    """A data set that is not there, or cannot be read or prepared."""


class RunStopped(ExperimentError):
    """A run that cannot go on, such as on a non-finite hypergradient."""


class ProcessLost(ExperimentError):
    """A run of several processes of which another one has ended before it was done."""

    exit_code = 3
